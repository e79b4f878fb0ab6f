/* grid.h - the grids of the standard packed types: which values a block can hold, the
 * search for the scales that serve given weights best, rounding to a chosen grid.
 *
 * A block of 32 or 256 values is cut into groups; in group g code l stands for
 *
 *     scale_g level(l) + offset_g
 *
 * with level(l) = l - zero, or a table's entry.  Of K types scale_g = d sc_g and offset_g
 * = -dmin mn_g with small integers sc, mn; all searches work on the values as they will
 * be read. */
#ifndef COMPRESS_GRID_H
#define COMPRESS_GRID_H

#include "kern/dtype.h"

typedef struct {
    dtype type;
    uint16_t block, group;
    uint8_t levels, zero;    /* codes 0 .. levels - 1                                  */
    const int8_t *table;     /* NULL: code - zero                                      */
    bool has_min;            /* offsets                                                */
    int16_t sc_low, sc_high; /* range of sc (and of mn from 0); 0, 0: d and dmin alone */
} grid;

const grid *grid_of(dtype t); /* NULL: no such grid (plain types, Q8_0) */

/* A block's scales, chosen. */
typedef struct {
    dtype_codes c; /* all but the codes l */
    float scale[QK / 16], offset[QK / 16];
} grid_block;

/* Scales that make sum_i w_i (x_i - nearest)^2 small; w NULL: all ones. */
void grid_fit(const grid *g, const float *x, const float *w, grid_block *b);
/* The nearest value of element i's group and its code. */
float grid_round(const grid *g, const grid_block *b, size_t i, float x, uint8_t *code);
/* b->c.l = codes nearest to x; q (block, may be NULL) their values. */
void grid_codes(const grid *g, grid_block *b, const float *x, float *q);
/* With b's codes as they are, the d and dmin that serve x best; false: no better. */
bool grid_refit(const grid *g, const float *x, const float *w, grid_block *b);
void grid_put(const grid *g, const grid_block *b, void *block);

#endif
