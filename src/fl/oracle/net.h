/* net.h - clients that train a small network: multinomial logistic regression, an MLP or
 * a CNN, written once as a forward over nn ops; the gradient comes from the tape.
 *
 * The parameters are one flat vector: for each layer W (out, in) row-major, then b (out).
 */
#ifndef FL_ORACLE_NET_H
#define FL_ORACLE_NET_H

#include "fl/algo.h"
#include "fl/partition.h"

/* A data set in memory, not owned: rows of bytes (a number is byte / 255) or of floats. */
typedef struct {
    size_t n;
    uint32_t features, classes;
    const uint8_t *bytes; /* (n, features), or */
    const float *x;       /* (n, features)     */
    const int32_t *label; /* (n) in [0, classes) */
} net_data;

enum { NET_LAYERS = 6 };

/* hidden: widths between input and classes, n_hidden 0 = softmax regression.  A CNN has
 * two convolutions 5x5 (padding 2), each with ReLU and 2x2 maximum, of `conv` channels,
 * before the hidden layers; its rows are one channel of height x width. */
typedef struct {
    uint32_t features, classes, n_hidden, hidden[NET_LAYERS - 1];
    uint32_t conv[2], height, width; /* conv[0] == 0: no convolutions */
} net_shape;

/* "200,100" -> hidden. */
om_status net_shape_hidden(net_shape *s, str widths, om_err *err);
/* False (err set) when the sizes make no network. */
om_status net_shape_check(const net_shape *s, om_err *err);
size_t net_dim(const net_shape *s);
/* x0: U(-1,1)/sqrt(fan in), as PyTorch's default; softmax regression starts at zero. */
void net_init(const net_shape *s, uint64_t seed, float *x0);

typedef struct {
    const net_shape *shape;
    const net_data *data;
    const partition *split;
    double l2; /* adds (l2/2) |x|^2 */
    const kern *k;
} net_task;

/* One thread's network: activations and scratch.  Not shared between threads. */
typedef struct net net;
om_status net_open(const net_task *t, net **out, om_err *err);
void net_close(net *n);
/* The problem of a client, valid until the next call with this net. */
void net_client(net *n, uint32_t client, fl_oracle *out);
/* Mean loss (without l2) and accuracy over all of `data`; one net a thread of the pool.
 * score (data->n): of each row, above 0 for class 1 of two; NULL: not wanted. */
om_status net_score(net *const *nets, pool *p, const net_data *data, const float *x,
                    float *score, double *loss, double *accuracy, om_err *err);

#endif
