/* second_wire.h - private to second.c and second_step.c: codecs over packed matrices. */
#ifndef FL_SECOND_WIRE_H
#define FL_SECOND_WIRE_H

#include "codec/wire.h"
#include "fl/second.h"

typedef struct {
    const codec *c;
    double p[16];
    size_t n; /* numbers it sees: the packed triangle, or the matrix */
    float scale;
} hess_codec;

hess_codec hess_codec_of(const fl_env *e, size_t order);
/* y (packed by order) += weight scale C; y is untouched by what is refused. */
om_status hess_decode(const fl_env *e, size_t order, const uint8_t *in, size_t n,
                      float weight, float *y, arena scratch, om_err *err);
double wire_load_f64(const uint8_t *p);

#endif
