/* mirrors.h - the server's half of methods where a robust rule stands over vectors g_i that
 * clients build up with compressed steps c_i (Byz-EF21, Byz-DASHA):
 *
 *     g_i += c_i;   g = RAgg(g_1, .., g_n);   x -= lr g
 *
 * A rule over the steps c_i would not do: they need not be alike where the g_i are.  So
 * the server keeps the g_i of everyone, clients x model; with the mean for a rule their sum
 * is enough, and the state is that of EF21.  Every client takes part in every round.
 *
 * State: average.h's, vector 2 the mean of the g_i or the first g_i, the others behind. */
#ifndef FL_MIRRORS_H
#define FL_MIRRORS_H

#include "fl/grad.h"

size_t mirrors_bytes(const fl_env *e);         /* fl_algo.server_bytes */
size_t mirrors_scratch_bytes(const fl_env *e); /* of a close, or of a rule */
om_status mirrors_recv(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                       const uint8_t *up, size_t up_n, arena scratch, om_err *err);
/* The same where C(v) counts codec_scale times (grad.h). */
om_status mirrors_recv_scaled(const fl_env *e, void *server, uint32_t id, uint64_t samples,
                              const uint8_t *up, size_t up_n, arena scratch, om_err *err);
om_status mirrors_close(const fl_env *e, void *server, arena scratch, om_err *err);

#endif
