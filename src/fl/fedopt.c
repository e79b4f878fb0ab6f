/* fedopt.c - see fedopt.h.
 *
 *     D = weighted mean of y_i - x
 *     m = b1 m + (1 - b1) D
 *     v = rule(v, D^2)
 *     x = x + server_lr m / (sqrt(v) + tau)
 *
 * v sees D^2, not m^2, and there is no bias correction: two public versions differ from
 * the paper there.  State: x, the sum, m, v; the close goes over m and v once and lets go
 * of them as it goes, so that a driver never has all four in memory. */
#include "fl/fedopt.h"
#include "fl/average.h"

#include <math.h>

enum {
    M = 2,
    V = 3,
    BLOCK = 1 << 18, /* numbers of m and v in memory at a time, besides x and the sum */
};

size_t fedopt_server_bytes(const fl_env *e) { return average_bytes(e, 2); }

om_status fedopt_open(const fl_env *e, void *server, const float *x0, om_err *err)
{
    TRY(average_open(e, server, x0, err));
    float *v = average_vector(e, server, V);
    for (size_t i = 0; i < e->dim; i++) {
        v[i] = (float)e->p[FEDOPT_V0];
        if ((i + 1) % BLOCK == 0)
            fl_release(e, v + i + 1 - BLOCK, BLOCK * sizeof(float));
    }
    return OM_OK;
}

om_status fedopt_close(const fl_env *e, void *server, fedopt_rule *rule, om_err *err)
{
    float *d, *m = average_vector(e, server, M), *v = average_vector(e, server, V);
    const float *x = average_model(e, server);
    float b1 = (float)e->p[FEDOPT_BETA1], b2 = (float)e->p[FEDOPT_BETA2];
    float lr = (float)e->p[FEDOPT_SERVER_LR], tau = (float)e->p[FEDOPT_TAU];
    TRY(average_mean(e, server, &d, err));
    for (size_t i = 0; d && i < e->dim; i++) {
        if (i % BLOCK == 0 && i) {
            fl_release(e, m + i - BLOCK, BLOCK * sizeof(float));
            fl_release(e, v + i - BLOCK, BLOCK * sizeof(float));
        }
        m[i] = b1 * m[i] + (1 - b1) * d[i];
        v[i] = rule(v[i], d[i] * d[i], b2);
        d[i] = x[i] + lr * m[i] / (sqrtf(v[i]) + tau);
    }
    return d ? average_accept(e, server, d, err) : OM_OK;
}
