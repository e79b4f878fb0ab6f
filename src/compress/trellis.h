/* trellis.h - the path through a trellis of kern/higgs.h that serves a block best. */
#ifndef COMPRESS_TRELLIS_H
#define COMPRESS_TRELLIS_H

#include "kern/higgs.h"

/* A block's targets and, with feedback, how its errors travel (ldl.h). */
typedef struct {
    const higgs_type *h;
    float d;
    const float *t, *w; /* (256) targets with earlier blocks' feedback; the weights */
    const float *u;     /* the block's square of U, rows ldu apart; NULL: no feedback */
    size_t ldu;
    const float *weight; /* (256) what an error counts; NULL: all the same */
} trellis_job;

/* States (256) of the path, a closed ring, and their values q (256).  Returns
 * sum weight (target - q)^2. */
float trellis_path(const trellis_job *j, uint8_t *state, float *q);

#endif
