/* higgs.h - rotated tensor types of our own: Gaussian grids and Gaussian trellises.
 *
 * A block is 256 weights of a row, w.  Signs and an orthonormal Hadamard transform,
 *
 *     w' = H (s * w) / 16,      s_i = +-1, the same 256 signs everywhere
 *
 * make its values close to Gaussian whatever w was, so one code book made for N(0, 1)
 * serves every matrix, and its relative squared error is the code book's own.  A product
 * needs no weights back: rotate x instead, since <w', x'> = <w, x>.
 *
 * On disk: f16 d, then 32 B bytes, B bits a weight.  Positions of a block are counted in
 * CODING ORDER; position i is column higgs_column(i) of w'.
 *
 *   H2_P4 H3_P2 H4_P2 H8_P1   grids of p dimensions (HIGGS, Malinovskii et al. 2024,
 *       arXiv:2411.17525): code j stands for positions p j .. p j + p - 1, columns j + q
 * 256/p; value q of it is d grid[q][code].  Codes of 8 bits are bytes; of 6 bits nibbles
 *       (byte b: codes b and b + 64) followed by pairs (byte b: b, b + 32, b + 64, b + 96).
 *   HT2 HT3 HT4 HT5           a tail-biting trellis of 256 states: position i has the value
 *       d table[state], the state being the eight bits that end at bit B (i + 1) of a ring
 * of 256 B bits (the bit-shift trellis of QTIP, Tseng et al. 2024, arXiv:2406.11235, with
 *       a trained table).  Byte b of the ring lies at byte 4 (b mod 8B) + b / 8B, and
 *       position i is column 4 (i mod 64) + i / 64, so that four bytes side by side walk
 *       four quarters of the ring. */
#ifndef KERN_HIGGS_H
#define KERN_HIGGS_H

#include "kern/blocks.h"

#define HIGGS_BYTES(bits) (2 + 32 * (bits))

typedef struct {
    dtype type;
    uint8_t bits, p;     /* p 0: a trellis */
    uint16_t n;          /* points of the grid; states */
    const int8_t *value; /* (p, n), or (n) of a trellis */
    float unit;          /* unit * value is meant for N(0, 1) */
    float error;         /* relative squared error on Gaussians */
} higgs_type;

const higgs_type *higgs_of(dtype t); /* NULL: another type */
size_t higgs_column(const higgs_type *h, size_t position);

/* x' of n values, n a multiple of 256, and back; in place. */
void higgs_rotate(float *x, size_t n);
void higgs_unrotate(float *x, size_t n);

/* Codes (256 / p), or states (256), in coding order, and d into a block.  Of states only
 * the new bits are stored; they must follow one another and close the ring. */
void higgs_put(const higgs_type *h, float d, const uint8_t *code, void *block);
/* The other way. */
float higgs_get(const higgs_type *h, const void *block, uint8_t *code);
/* Values in coding order, d among them. */
void higgs_values(const higgs_type *h, const void *block, float v[QK]);

void unpack_h2_p4(const void *src, float *dst, size_t n);
void unpack_h3_p2(const void *src, float *dst, size_t n);
void unpack_h4_p2(const void *src, float *dst, size_t n);
void unpack_h8_p1(const void *src, float *dst, size_t n);
void unpack_ht2(const void *src, float *dst, size_t n);
void unpack_ht3(const void *src, float *dst, size_t n);
void unpack_ht4(const void *src, float *dst, size_t n);
void unpack_ht5(const void *src, float *dst, size_t n);

#endif
