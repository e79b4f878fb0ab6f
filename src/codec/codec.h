/* codec.h - compressors of update vectors: the operators C of the papers.
 *
 * To add one: write codec/<name>.c (copy topk.c), add X(name) to list.h.  The laws then
 * check its bound, determinism, every truncation, its variance, and it is on the
 * command line, in the configuration and in the reference. */
#ifndef CODEC_CODEC_H
#define CODEC_CODEC_H

#include "base/base.h"

enum {
    CODEC_UNBIASED = 1u << 0,    /* E C(x) = x,  E|C(x)-x|^2 <= omega |x|^2 */
    CODEC_CONTRACTIVE = 1u << 1, /* E|C(x)-x|^2 <= (1-alpha) |x|^2          */
    /* The clients' messages of a round belong together: all of them are given rng keys
     * that are equal, and rng counters that are their client ids. */
    CODEC_JOINT = 1u << 2,
    /* Keeps directions alone and bounds no error; for methods that ask for signs. */
    CODEC_DIRECTION = 1u << 3,
    /* Sees a matrix in the vector, by a parameter "rows": one that has a matrix gives it
     * whole. */
    CODEC_MATRIX = 1u << 4,
};

typedef struct codec codec;
struct codec {
    const char *name, *summary, *source;
    unsigned flags;
    const param *params;
    double (*omega)(const double *p, size_t d); /* NULL unless UNBIASED    */
    double (*alpha)(const double *p, size_t d); /* NULL unless CONTRACTIVE */
    size_t (*bound)(const double *p, size_t d); /* most bytes encode writes */
    size_t (*scratch_bytes)(const double *p, size_t d);
    /* Appends the message for x to out.  x must be finite. */
    om_status (*encode)(const double *p, const float *x, size_t d, rng r, arena scratch,
                        buf *out);
    /* y += weight * decoded.  Hostile input: refuses, naming what is wrong, any message
     * that encode could not have written (wrong length, index out of range or order,
     * NaN or infinity); y is untouched then. */
    om_status (*decode)(const double *p, const uint8_t *in, size_t n, float weight,
                        float *y, size_t d, om_err *err);
};

/* Any codec as a contractive one: an unbiased Q is used as Q / (1 + omega), which has
 * alpha = 1 / (1 + omega).  The receiver multiplies what it decodes by the scale. */
double codec_alpha(const codec *c, const double *p, size_t d);
double codec_scale(const codec *c, const double *p, size_t d);

/* Error feedback around a contractive codec (Seide et al. 2014; Karimireddy et al. 2019):
 *     send c = C(v + error);   error = v + error - c
 * so that what is sent and what is kept add up to all that was ever put in.  v (d) is
 * overwritten with v + error.  error (d) is unchanged on failure. */
om_status codec_feedback(const codec *c, const double *p, float *v, float *error, size_t d,
                         rng r, arena scratch, buf *out, om_err *err);

extern const codec *const codecs[]; /* ends with NULL */
const codec *codec_find(str name);
om_status codec_need(str name, const codec **out, om_err *err); /* with "did you mean" */

#endif
