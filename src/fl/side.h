/* side.h - codecs besides the uplink's: the one for the way down, and the second one of the
 * methods that need two.  They are parameters of the algorithm ("down", "down_ratio"), so
 * that configuration, wire and recipe stay as they are.
 *
 * THE WAY DOWN, compressed.  Server and clients hold the same vector w, the mirror of a
 * target that moves (the model, or the estimate of the gradient).  A round brings
 *
 *     C(target - w),  and all add it to w:  w += C(target - w)
 *
 * which is sound only for who has seen every message.  So a message is either a difference
 * or the vector as it is: the latter in round 0, and whenever somebody did not answer the
 * round before, since whoever answered has seen all. */
#ifndef FL_SIDE_H
#define FL_SIDE_H

#include "fl/grad.h"

typedef struct {
    const codec *c;
    double p[16];
} side_codec;

#define SIDE_CODECS "identity|topk|randk|natural|qsgd|scaled-sign"
enum { SIDE_IDENTITY, SIDE_TOPK, SIDE_RANDK, SIDE_NATURAL, SIDE_QSGD, SIDE_SIGN };
/* The codec number `choice` of SIDE_CODECS, with its ratio where it has one. */
side_codec side_of(double choice, double ratio);

enum { DOWN_WHOLE, DOWN_PART };

/* Most bytes of a down message about `vectors` vectors when whole. */
size_t side_down_bound(const fl_env *e, const side_codec *c, uint32_t vectors);
/* May a difference be sent?  Told at each close by side_closed, asked at begin. */
bool side_in_step(const fl_env *e, void *server);
void side_closed(const fl_env *e, void *server, bool everyone);
/* C(target - mirror) onto out, with the coins of `round`; delta (dim) is overwritten.
 * Both sides then side_add it to their mirrors. */
om_status side_put(const fl_env *e, const side_codec *c, uint32_t round,
                   const float *target, const float *mirror, float *delta, buf *out,
                   om_err *err);
om_status side_add(const fl_env *e, const side_codec *c, const uint8_t *in, size_t n,
                   float *mirror, om_err *err);
om_status side_put_whole(const fl_env *e, const float *v, buf *out, om_err *err);

#endif
