/* cohort.h - arithmetic over the vectors of a cohort: n rows of d floats, one a client.
 *
 * Three primitives carry every aggregator.  cohort_gram is the matrix of inner products
 * of the rows, after which distances, norms and Weiszfeld's iteration live in n x n;
 * cohort_combine is a weighted sum of rows; cohort_columns orders the n numbers of each
 * coordinate.  All read the data once, cut the work over coordinates in pieces of a fixed
 * size, and so give the same bits for any number of threads.
 *
 * Ordering is a sorting network (Batcher 1968) over whole registers: a compare-exchange of
 * two rows is a minimum and a maximum of 64 coordinates at once, no branch, no gather.
 * Runs of 16 rows are sorted in registers and merged in twos; a merge mirrors one run, so
 * that every comparator puts the lesser in the lower row, and takes up to 8 rows through
 * three layers before it writes them back.  Rows are filled up to sixteens with infinity,
 * which stays at the end.
 *
 * select_top is the other selection of federated learning: the k largest magnitudes of a
 * vector, exactly, with ties to the lower index.  A sample brackets the threshold, one
 * pass counts what lies above it, one collects it, and the exact cut is made among those
 * few; a vector that fools the sample is counted in full by radix (11, 10, 10 bits). */
#ifndef KERN_COHORT_H
#define KERN_COHORT_H

#include "kern/kern.h"

typedef struct {
    size_t n, d, ld;
    const float *v; /* row i is v + i ld; finite */
} cohort;

/* A tile is 64 coordinates of every row; its rows lie 80 floats apart, for at 64 every
 * sixteenth row would share the low address bits by which a CPU tells a load from an
 * earlier store. */
enum { COHORT_LANES = 64, COHORT_STRIDE = 80, COHORT_MOST = 16384 /* rows */ };

/* g (n, n) doubles, symmetric.  Products are summed in f32 within 1024 coordinates and in
 * double across them; g_ij is off by less than 3e-5 |v_i| |v_j|, in the mean far less. */
size_t cohort_gram_bytes(const kern *k, size_t n, const pool *p);
void cohort_gram(const kern *k, pool *p, const cohort *c, double *g, arena scratch);

/* out (d) = sum of weight[i] row i; rows of weight 0 are not read. */
void cohort_combine(const kern *k, pool *p, const cohort *c, const float *weight,
                    float *out);

typedef enum {
    COHORT_MEDIAN,  /* middle value; mean of the two middle ones when n is even */
    COHORT_TRIMMED, /* mean without the `cut` least and the `cut` greatest; 2 cut < n */
    COHORT_NEAREST, /* mean of the n - cut values nearest to the median; cut < n */
} cohort_rank;

/* mix: NULL, or (m, n) row-major: what is ranked are the m sums mix_r . rows instead.
 * out (d). */
size_t cohort_columns_bytes(size_t n, size_t m, const pool *p);
void cohort_columns(const kern *k, pool *p, const cohort *c, cohort_rank rank, size_t cut,
                    const float *mix, size_t m, float *out, arena scratch);

/* The indices of the top <= d largest magnitudes, ascending, into index (top); ties go to
 * the lower index.  False, and nothing promised, when x holds a NaN or an infinity. */
size_t select_top_bytes(size_t d, size_t top);
bool select_top(const kern *k, pool *p, const float *x, size_t d, size_t top,
                uint32_t *index, arena scratch);

/* ---- what an instruction set supplies ---- */

/* A step of the network, on rows of a tile: 16 of them from row[0] on, or 2, 4, 8. */
typedef enum {
    COHORT_SORT16,
    COHORT_CLEAN16,
    COHORT_MERGE2,
    COHORT_MERGE4,
    COHORT_MERGE8
} cohort_kind;
typedef struct {
    uint16_t kind, row[8];
} cohort_step;

typedef struct cohort_kernels {
    /* Tiles are rows of COHORT_LANES floats, COHORT_STRIDE apart. */
    void (*network)(const cohort_step *step, size_t n, float *tile);
    /* out (lanes) = mean of rows [from, to) of the tile */
    void (*mean)(const float *tile, size_t from, size_t to, float *out);
    /* How many of x (n) have magnitude bits >= t; and their indices, base added. */
    size_t (*count_from)(const float *x, size_t n, uint32_t t);
    size_t (*pack_from)(const float *x, size_t n, uint32_t t, uint32_t base,
                        uint32_t *index);
} cohort_kernels;

/* Inner products of the rows over coordinates [from, to), added to the upper half of sum
 * (n, n); what is below the diagonal is undefined.  bytes(n) of scratch. */
typedef struct cohort_products {
    size_t (*bytes)(size_t n);
    void (*span)(const cohort *c, size_t from, size_t to, double *sum, char *scratch);
} cohort_products;

extern const cohort_products cohort_amx;
extern const cohort_kernels cohort_c, cohort_avx2, cohort_avx512, cohort_neon;
const cohort_kernels *cohort_kernels_for(unsigned flags);

#endif
