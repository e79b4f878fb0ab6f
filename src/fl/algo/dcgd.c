/* dcgd.c - distributed compressed gradient descent.
 *
 *     client i sends Q(grad f_i(x));   x -= lr mean_i Q(grad f_i(x))
 *     vote=majority, codec sign:       x -= lr sign(sum_i sign(grad f_i(x)))   (signSGD)
 *
 * With an unbiased Q it reaches a neighbourhood of the optimum, of a size that grows with
 * omega and with the clients' gradients there; diana removes it.  Signs alone follow no
 * gradient in general (Karimireddy et al. 2019 give counterexamples); scaled-sign with
 * error feedback under fedavg with local_steps=1 does.  Batches smaller than the data make
 * this distributed SGD. */
#include "fl/grad.h"

enum { VOTE = GRAD_PARAMS };
enum { MEAN, MAJORITY };

static const param params[] = {
    FL_GRAD_PARAMS,
    [VOTE] = {"vote", MEAN, 0, 1, "what is made of the messages", "mean|majority"},
    {NULL, 0, 0, 0, NULL, NULL},
};

GRAD_CLIENT(client_step, grad_send_one)

static size_t server_bytes(const fl_env *e) { return average_bytes(e, 0); }

static size_t client_bytes(const fl_env *e) { return client_bytes_of(e, 0); }

static om_status server_close(const fl_env *e, void *server, arena scratch, om_err *err)
{
    float *g;
    TRY(average_mean(e, server, &g, err));
    for (size_t i = 0; g && (int)e->p[VOTE] == MAJORITY && i < e->dim; i++)
        g[i] = (float)((g[i] > 0) - (g[i] < 0));
    return g ? grad_move(e, server, g, e->p[GRAD_LR], scratch, err) : OM_OK;
}

const fl_algo fl_dcgd = {
    .name = "dcgd",
    .summary = "descent along the mean of compressed gradients",
    .source = "Alistarh et al. 2017; Bernstein et al. 2019, arXiv 1810.05291",
    .flags = FL_CLIENT_STATE | FL_NEEDS_UNBIASED | FL_TAKES_SIGNS,
    .params = params,
    .server_bytes = server_bytes,
    .client_bytes = client_bytes,
    .scratch_bytes = grad_scratch_bytes,
    .up_bound = up_bound_of,
    .down_bound = average_down_bound,
    .server_open = average_open,
    .server_begin = average_begin,
    .client_step = client_step,
    .server_recv = grad_recv,
    .server_check = grad_check,
    .server_close = server_close,
    .model = average_model,
};
