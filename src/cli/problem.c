/* problem.c - see problem.h.  One kind of model, one set of functions below; the files'
 * bytes stay mapped while the problem is open. */
#include "cli/problem.h"
#include "cli/problem_llm.h"
#include "fl/oracle/logistic.h"
#include "fl/oracle/multinomial.h"
#include "fl/oracle/net.h"
#include "fl/oracle/quadratic.h"

#include <math.h>
#include <stdio.h>

/* Rows in memory, of any kind the networks or the regression want. */
typedef struct {
    os_map file, label_file;
    data_sparse sparse;
    float *sign;     /* (n_rows) +-1, logistic */
    uint32_t *class; /* (n_rows) multinomial */
    float *dense;   /* (n, features), networks on LIBSVM rows */
    int32_t *label; /* (n) */
    uint8_t *trigger; /* (n, features), rows of an attack */
    net_data rows;
} table;

struct problem {
    const config *conf;
    const kern *k;
    pool *pool;
    int threads;
    uint32_t n_clients;
    size_t dim;
    float *x0;
    table train, test;
    bool has_test;
    partition split;
    quadratic *quadratic;
    logistic_task logistic_task;
    logistic *logistic; /* (threads) */
    multinomial_task multinomial_task;
    multinomial *multinomial; /* (threads) */
    net_shape shape;
    net_task net_task;
    net **nets; /* (threads) */
    uint8_t *hostile;   /* (n_clients) when attackers train on poisoned rows, else NULL */
    table poison, backdoor; /* training rows as they see them; test rows with the trigger */
    net_task poison_task;
    net **poison_nets; /* (threads) */
    logistic_task poison_logistic;
    llm_problem *llm;
    const om_cancel *cancel;
    float *class_label; /* (MOST_CLASSES) labels of LIBSVM rows, ascending */
    uint32_t n_classes;
    char summary[200];
};

/* ---- reading ---- */

static om_status need_path(const char *path, const char *key, om_err *err)
{
    return path[0]
               ? OM_OK
               : fail(err, OM_EARG, "%s is not set; it names the file to learn from", key);
}

static om_status in_file(const char *path, om_status s, om_err *err)
{
    return s == OM_OK ? s : fail_in(err, s, path);
}

static om_status refuse_gzip(const os_map *m, const char *path, om_err *err)
{
    if (m->n > 2 && m->p[0] == 0x1f && m->p[1] == 0x8b)
        return fail(err, OM_EUNSUPPORTED, "'%s' is gzipped; unpack it with gunzip first",
                    path);
    return OM_OK;
}

static om_status read_sparse(const char *path, table *t, om_err *err)
{
    TRY(os_map_open(path, &t->file, err));
    TRY(refuse_gzip(&t->file, path, err));
    return in_file(path, data_libsvm(t->file.p, t->file.n, &t->sparse, err), err);
}

static size_t limited(const config *c, size_t n)
{
    return c->data.limit ? size_min(n, (size_t)c->data.limit) : n;
}

enum { MOST_CLASSES = 1024 };

/* Where v is, or would go, in the ascending seen[0..k). */
static uint32_t class_at(const float *seen, uint32_t k, float v)
{
    uint32_t at = 0;
    while (at < k && seen[at] < v)
        at++;
    return at;
}

/* Classes are the distinct labels of the training rows, in ascending order. */
static om_status find_classes(problem *p, const data_sparse *d, om_err *err)
{
    uint32_t k = 0;
    for (size_t i = 0; i < d->n_rows; i++) {
        float v = d->label[i];
        uint32_t at = class_at(p->class_label, k, v);
        if (at < k && p->class_label[at] == v)
            continue;
        if (k == MOST_CLASSES)
            return fail(err, OM_ELIMIT, "more than %d different labels", MOST_CLASSES);
        memmove(p->class_label + at + 1, p->class_label + at, (k - at) * sizeof(float));
        p->class_label[at] = v;
        k++;
    }
    p->n_classes = k;
    return OM_OK;
}

static om_status class_labels(problem *p, table *t, om_err *err)
{
    for (size_t i = 0; i < t->rows.n; i++) {
        uint32_t at = class_at(p->class_label, p->n_classes, t->sparse.label[i]);
        if (at == p->n_classes || p->class_label[at] != t->sparse.label[i])
            return fail(err, OM_EARG, "row %zu has label %g, which no training row has",
                        i + 1, (double)t->sparse.label[i]);
        t->label[i] = (int32_t)at;
    }
    t->rows.classes = p->n_classes;
    return OM_OK;
}

/* LIBSVM rows as a dense matrix of `features` columns (0: their own). */
static om_status densify(problem *p, table *t, uint32_t features, om_err *err)
{
    size_t n = limited(p->conf, t->sparse.n_rows),
           w = features ? features : t->sparse.n_cols, all;
    if (!size_mul(n, w, &all) || !(t->dense = mem_array(all, sizeof(float))) ||
        !(t->label = mem_array(n, sizeof(int32_t))))
        return fail(err, OM_ENOMEM, "no memory for %zu rows of %zu numbers", n, w);
    for (size_t i = 0; i < n; i++)
        for (size_t e = t->sparse.row[i]; e < t->sparse.row[i + 1]; e++)
            if (t->sparse.col[e] < w)
                t->dense[i * w + t->sparse.col[e]] = t->sparse.value[e];
    t->rows = (net_data){.n = n, .features = (uint32_t)w, .x = t->dense, .label = t->label};
    if (t == &p->train)
        TRY(find_classes(p, &t->sparse, err));
    return class_labels(p, t, err);
}

static om_status read_images(const config *c, const char *path, const char *labels,
                             table *t, data_idx *shape, om_err *err)
{
    data_idx la;
    TRY(os_map_open(path, &t->file, err));
    TRY(refuse_gzip(&t->file, path, err));
    TRY(in_file(path, data_idx_open(t->file.p, t->file.n, shape, err), err));
    TRY(os_map_open(labels, &t->label_file, err));
    TRY(refuse_gzip(&t->label_file, labels, err));
    TRY(in_file(labels, data_idx_open(t->label_file.p, t->label_file.n, &la, err), err));
    if (shape->type != IDX_U8 || la.type != IDX_U8 || la.count != shape->dim[0])
        return fail(err, OM_EFORMAT,
                    "'%s' and '%s' are not images and their labels, both of "
                    "unsigned bytes",
                    path, labels);
    size_t n = limited(c, la.count);
    t->label = mem_array(n, sizeof(int32_t));
    if (!t->label || n == 0)
        return fail(err, n ? OM_ENOMEM : OM_EARG, "'%s': no memory or no labels", labels);
    t->rows = (net_data){.n = n,
                         .features = (uint32_t)(shape->count / la.count),
                         .bytes = shape->raw,
                         .label = t->label};
    for (size_t i = 0; i < n; i++) {
        t->label[i] = la.raw[i];
        if (t->rows.classes <= la.raw[i])
            t->rows.classes = la.raw[i] + 1u;
    }
    return OM_OK;
}

static void table_close(table *t)
{
    data_sparse_close(&t->sparse);
    os_map_close(&t->file);
    os_map_close(&t->label_file);
    mem_free(t->sign);
    mem_free(t->class);
    mem_free(t->dense);
    mem_free(t->label);
    mem_free(t->trigger);
}

/* ---- dealing ---- */

static om_status deal(problem *p, size_t n, const uint32_t *label, uint32_t classes,
                      om_err *err)
{
    const config *c = p->conf;
    partition_data d = {n, label, classes, NULL};
    TRY(partition_open(c->partition, c->partition_p, &d, p->n_clients, c->seed, &p->split,
                       err));
    size_t least = n, most = 0;
    for (uint32_t i = 0; i < p->n_clients; i++) {
        size_t m = p->split.first[i + 1] - p->split.first[i];
        least = size_min(least, m), most = size_max(most, m);
    }
    size_t used = strlen(p->summary);
    snprintf(p->summary + used, sizeof(p->summary) - used,
             "; %u clients with %zu to %zu samples, %s", (unsigned)p->n_clients, least,
             most, c->partition->name);
    return OM_OK;
}

static om_status start_at_zero(problem *p, om_err *err)
{
    p->x0 = mem_array(p->dim, sizeof(float));
    return p->x0 ? OM_OK : fail(err, OM_ENOMEM, "no memory for %zu numbers", p->dim);
}

/* ---- quadratic ---- */

static om_status open_quadratic(problem *p, om_err *err)
{
    const config *c = p->conf;
    quadratic_config q = {.dim = (size_t)c->model.dim,
                          .n_clients = p->n_clients,
                          .mu = 1 / c->model.condition,
                          .smooth = 1,
                          .heterogeneity = c->model.heterogeneity,
                          .seed = c->seed};
    TRY(quadratic_open(&q, &p->quadratic, err));
    p->dim = q.dim;
    snprintf(p->summary, sizeof(p->summary), "quadratic of %zu numbers; %u clients", p->dim,
             (unsigned)p->n_clients);
    return start_at_zero(p, err);
}

static om_status quadratic_client(void *ctx, uint32_t client, int worker, fl_oracle *out,
                                  om_err *err)
{
    (void)worker, (void)err;
    quadratic_oracle(((problem *)ctx)->quadratic, client, out);
    return OM_OK;
}

static om_status quadratic_score(void *ctx, const float *x, sim_score *out, om_err *err)
{
    (void)err;
    out->loss = quadratic_mean(((problem *)ctx)->quadratic, x, NULL);
    return OM_OK;
}

/* ---- logistic regression ---- */

static om_status signs(table *t, om_err *err)
{
    t->sign = mem_array(t->sparse.n_rows, sizeof(float));
    return t->sign ? logistic_labels(&t->sparse, t->sign, err)
                   : fail(err, OM_ENOMEM, "no memory for %u labels", t->sparse.n_rows);
}

static om_status choose_hostile(problem *p, om_err *err)
{
    p->hostile = mem_alloc(p->n_clients);
    if (!p->hostile)
        return fail(err, OM_ENOMEM, "no memory for %u clients", (unsigned)p->n_clients);
    attack_choose(&p->conf->attack, p->conf->seed, p->n_clients, p->hostile);
    return OM_OK;
}

/* The labels as attackers have them. */
static om_status poison_signs(problem *p, om_err *err)
{
    const attack *a = p->conf->attack.row;
    size_t n = p->train.sparse.n_rows;
    if (!a || !(a->flags & (ATTACK_LABELS | ATTACK_TRIGGER)))
        return OM_OK;
    if (a->flags & ATTACK_TRIGGER)
        return fail(err, OM_EARG, "attack %s needs images (data.format idx)", a->name);
    TRY(choose_hostile(p, err));
    p->poison.sign = mem_array(n, sizeof(float));
    if (!p->poison.sign)
        return fail(err, OM_ENOMEM, "no memory for %zu labels", n);
    for (size_t i = 0; i < n; i++)
        p->poison.sign[i] = -p->train.sign[i];
    p->poison_logistic = p->logistic_task;
    p->poison_logistic.label = p->poison.sign;
    return OM_OK;
}

static om_status open_logistic(problem *p, om_err *err)
{
    const config *c = p->conf;
    if (c->data.format != CONFIG_LIBSVM)
        return fail(err, OM_EARG, "model.kind logistic reads data.format libsvm");
    TRY(need_path(c->data.path, "data.path", err));
    TRY(read_sparse(c->data.path, &p->train, err));
    TRY(in_file(c->data.path, signs(&p->train, err), err));
    if (c->data.test_path[0]) {
        TRY(read_sparse(c->data.test_path, &p->test, err));
        TRY(in_file(c->data.test_path, signs(&p->test, err), err));
        p->has_test = true;
    }
    p->logistic_task = (logistic_task){.rows = &p->train.sparse,
                                       .label = p->train.sign,
                                       .split = &p->split,
                                       .intercept = true,
                                       .l2 = c->model.l2,
                                       .k = p->k};
    p->dim = logistic_dim(&p->logistic_task);
    snprintf(p->summary, sizeof(p->summary), "logistic regression of %zu numbers", p->dim);
    p->logistic = mem_array((size_t)p->threads, sizeof(*p->logistic));
    size_t n = limited(c, p->train.sparse.n_rows);
    uint32_t *classes = mem_array(n, sizeof(*classes));
    for (size_t i = 0; classes && i < n; i++)
        classes[i] = p->train.sign[i] > 0;
    om_status s = classes && p->logistic
                      ? deal(p, n, classes, 2, err)
                      : fail(err, OM_ENOMEM, "no memory for the clients");
    mem_free(classes);
    if (s == OM_OK)
        s = poison_signs(p, err);
    return s == OM_OK ? start_at_zero(p, err) : s;
}

static om_status logistic_client(void *ctx, uint32_t client, int worker, fl_oracle *out,
                                 om_err *err)
{
    problem *p = ctx;
    (void)err;
    bool poisoned = p->hostile && p->hostile[client];
    logistic_oracle(poisoned ? &p->poison_logistic : &p->logistic_task, client,
                    &p->logistic[worker], out);
    return OM_OK;
}

/* How well scores rank.  Where updates are private, scores stay where they are and only
 * counts of a histogram are looked at. */
static om_status rank(const problem *p, const float *score, const float *sign, size_t n,
                      sim_score *out, om_err *err)
{
    double slack;
    if (!p->conf->recipe.privacy.on)
        return metric_of_scores(score, sign, n, SIM_PAUC_BETA, &out->ranks, err);
    metric_bins *b = mem_alloc(sizeof(*b));
    if (!b)
        return fail(err, OM_ENOMEM, "no memory for a histogram");
    metric_count(b, score, sign, n);
    out->ranks = metric_of_bins(b, SIM_PAUC_BETA, &slack);
    mem_free(b);
    return OM_OK;
}

static om_status logistic_score(void *ctx, const float *x, sim_score *out, om_err *err)
{
    problem *p = ctx;
    const table *t = p->has_test ? &p->test : &p->train;
    float *score = mem_array(t->sparse.n_rows + 1, sizeof(float));
    if (!score)
        return fail(err, OM_ENOMEM, "no memory for %u scores", t->sparse.n_rows);
    logistic_eval(&t->sparse, t->sign, p->train.sparse.n_cols, true, x, score, &out->loss,
                  &out->accuracy);
    om_status s = rank(p, score, t->sign, t->sparse.n_rows, out, err);
    mem_free(score);
    return s;
}

/* ---- multinomial regression ---- */

/* Class numbers of all rows, from the labels of the training rows. */
static om_status classes(problem *p, table *t, om_err *err)
{
    t->class = mem_array(t->sparse.n_rows, sizeof(*t->class));
    if (!t->class)
        return fail(err, OM_ENOMEM, "no memory for %u labels", t->sparse.n_rows);
    for (size_t i = 0; i < t->sparse.n_rows; i++) {
        float v = t->sparse.label[i];
        t->class[i] = class_at(p->class_label, p->n_classes, v);
        if (t->class[i] == p->n_classes || p->class_label[t->class[i]] != v)
            return fail(err, OM_EARG, "row %zu has label %g, which no training row has",
                        i + 1, (double)v);
    }
    return OM_OK;
}

static om_status read_classes(problem *p, const char *path, table *t, om_err *err)
{
    TRY(read_sparse(path, t, err));
    if (t == &p->train)
        TRY(in_file(path, find_classes(p, &t->sparse, err), err));
    return in_file(path, classes(p, t, err), err);
}

static om_status open_multinomial(problem *p, om_err *err)
{
    const config *c = p->conf;
    if (c->data.format != CONFIG_LIBSVM)
        return fail(err, OM_EARG, "model.kind multinomial reads data.format libsvm");
    TRY(need_path(c->data.path, "data.path", err));
    p->class_label = mem_array(MOST_CLASSES + 1, sizeof(float));
    p->multinomial = mem_array((size_t)p->threads, sizeof(*p->multinomial));
    if (!p->class_label || !p->multinomial)
        return fail(err, OM_ENOMEM, "no memory for the classes");
    TRY(read_classes(p, c->data.path, &p->train, err));
    if (c->data.test_path[0]) {
        TRY(read_classes(p, c->data.test_path, &p->test, err));
        p->has_test = true;
    }
    p->multinomial_task = (multinomial_task){.rows = &p->train.sparse,
                                             .label = p->train.class,
                                             .n_classes = p->n_classes,
                                             .split = &p->split,
                                             .intercept = true,
                                             .l2 = c->model.l2};
    p->dim = multinomial_dim(&p->multinomial_task);
    snprintf(p->summary, sizeof(p->summary),
             "multinomial regression of %zu numbers, %u classes", p->dim,
             (unsigned)p->n_classes);
    TRY(deal(p, limited(c, p->train.sparse.n_rows), p->train.class, p->n_classes, err));
    return start_at_zero(p, err);
}

static om_status multinomial_client(void *ctx, uint32_t client, int worker, fl_oracle *out,
                                    om_err *err)
{
    problem *p = ctx;
    (void)err;
    multinomial_oracle(&p->multinomial_task, client, &p->multinomial[worker], out);
    return OM_OK;
}

static om_status multinomial_score(void *ctx, const float *x, sim_score *out, om_err *err)
{
    problem *p = ctx;
    const table *t = p->has_test ? &p->test : &p->train;
    (void)err;
    multinomial_eval(&p->multinomial_task, &t->sparse, t->class, t->sparse.n_rows, x,
                     &out->loss, &out->accuracy);
    return OM_OK;
}

/* ---- networks ---- */

static om_status read_rows(problem *p, const char *path, const char *labels, table *t,
                           om_err *err)
{
    const config *c = p->conf;
    bool images = c->data.format == CONFIG_IDX;
    data_idx shape = {0};
    TRY(need_path(path, "data.path", err));
    if (images) {
        TRY(need_path(labels, "data.labels", err));
        TRY(read_images(c, path, labels, t, &shape, err));
        p->shape.height = shape.n_dims == 3 ? shape.dim[1] : 0;
        p->shape.width = shape.n_dims == 3 ? shape.dim[2] : 0;
        return OM_OK;
    }
    TRY(read_sparse(path, t, err));
    if (!p->class_label && !(p->class_label = mem_array(MOST_CLASSES + 1, sizeof(float))))
        return fail(err, OM_ENOMEM, "no memory for the classes");
    return in_file(path, densify(p, t, t == &p->test ? p->shape.features : 0, err), err);
}

static om_status shape_of(problem *p, om_err *err)
{
    const config *c = p->conf;
    p->shape.features = p->train.rows.features;
    p->shape.classes = p->train.rows.classes;
    if (c->model.kind != CONFIG_SOFTMAX)
        TRY(net_shape_hidden(&p->shape, str_of(c->model.hidden), err));
    if (c->model.kind == CONFIG_CNN) {
        p->shape.conv[0] = 32; /* the CNN of the FedAvg paper */
        p->shape.conv[1] = 64;
        if (p->shape.height == 0)
            return fail(err, OM_EARG, "model.kind cnn needs images (data.format idx)");
    }
    TRY(net_shape_check(&p->shape, err));
    p->dim = net_dim(&p->shape);
    snprintf(p->summary, sizeof(p->summary), "%s of %zu numbers on %u features, %u classes",
             c->model.kind == CONFIG_CNN   ? "cnn"
             : c->model.kind == CONFIG_MLP ? "mlp"
                                           : "softmax",
             p->dim, p->shape.features, p->shape.classes);
    return OM_OK;
}

static om_status open_nets(problem *p, om_err *err)
{
    p->net_task = (net_task){&p->shape, &p->train.rows, &p->split, p->conf->model.l2, p->k};
    p->nets = mem_array((size_t)p->threads, sizeof(*p->nets));
    if (!p->nets)
        return fail(err, OM_ENOMEM, "no memory for %d networks", p->threads);
    for (int i = 0; i < p->threads; i++)
        TRY(net_open(&p->net_task, &p->nets[i], err));
    TRY(start_at_zero(p, err));
    net_init(&p->shape, p->conf->seed, p->x0);
    return OM_OK;
}

/* Rows of `from` that are not of class 0 already (all of them: every), with the trigger
 * and class 0, as a table of its own. */
static om_status triggered(const problem *p, const table *from, bool every, table *to,
                           om_err *err)
{
    size_t n = from->rows.n, w = from->rows.features, kept = 0;
    if (!from->rows.bytes || p->shape.height == 0)
        return fail(err, OM_EARG, "attack backdoor needs images (data.format idx)");
    to->trigger = mem_array(n, w);
    to->label = mem_array(n, sizeof(int32_t));
    if (!to->trigger || !to->label)
        return fail(err, OM_ENOMEM, "no memory for %zu rows with a trigger", n);
    for (size_t i = 0; i < n; i++) {
        if (!every && from->label[i] == 0)
            continue;
        memcpy(to->trigger + kept * w, from->rows.bytes + i * w, w);
        bool clean = every && i % 2; /* half of an attacker's rows stay honest */
        to->label[kept] = clean ? from->label[i] : 0;
        if (!clean)
            poison_trigger(to->trigger + kept * w, 1, p->shape.height, p->shape.width);
        kept++;
    }
    to->rows = from->rows;
    to->rows.n = kept;
    to->rows.bytes = to->trigger;
    to->rows.label = to->label;
    return OM_OK;
}

/* What attackers on data train on. */
static om_status poison(problem *p, om_err *err)
{
    const attack *a = p->conf->attack.row;
    if (!a || !(a->flags & (ATTACK_LABELS | ATTACK_TRIGGER)))
        return OM_OK;
    TRY(choose_hostile(p, err));
    if (a->flags & ATTACK_TRIGGER) {
        TRY(triggered(p, &p->train, true, &p->poison, err));
        TRY(triggered(p, p->has_test ? &p->test : &p->train, false, &p->backdoor, err));
    } else {
        size_t n = p->train.rows.n;
        p->poison.label = mem_array(n, sizeof(int32_t));
        if (!p->poison.label)
            return fail(err, OM_ENOMEM, "no memory for %zu labels", n);
        poison_labels(p->train.label, n, p->shape.classes, p->poison.label);
        p->poison.rows = p->train.rows;
        p->poison.rows.label = p->poison.label;
    }
    p->poison_task = p->net_task;
    p->poison_task.data = &p->poison.rows;
    p->poison_nets = mem_array((size_t)p->threads, sizeof(*p->poison_nets));
    if (!p->poison_nets)
        return fail(err, OM_ENOMEM, "no memory for %d networks", p->threads);
    for (int i = 0; i < p->threads; i++)
        TRY(net_open(&p->poison_task, &p->poison_nets[i], err));
    return OM_OK;
}

static om_status open_net(problem *p, om_err *err)
{
    const config *c = p->conf;
    if (c->data.format != CONFIG_IDX && c->data.format != CONFIG_LIBSVM)
        return fail(err, OM_EARG, "networks read data.format idx or libsvm");
    TRY(read_rows(p, c->data.path, c->data.labels, &p->train, err));
    TRY(shape_of(p, err));
    if (c->data.test_path[0]) {
        TRY(read_rows(p, c->data.test_path, c->data.test_labels, &p->test, err));
        p->has_test = true;
        if (p->test.rows.features != p->shape.features ||
            p->test.rows.classes > p->shape.classes)
            return fail(err, OM_EARG,
                        "'%s' has %u features and %u classes, the training data "
                        "%u and %u",
                        c->data.test_path, p->test.rows.features, p->test.rows.classes,
                        p->shape.features, p->shape.classes);
    }
    TRY(deal(p, p->train.rows.n, (const uint32_t *)p->train.label, p->shape.classes, err));
    TRY(open_nets(p, err));
    return poison(p, err);
}

static om_status net_client_of(void *ctx, uint32_t client, int worker, fl_oracle *out,
                               om_err *err)
{
    problem *p = ctx;
    (void)err;
    bool poisoned = p->hostile && p->hostile[client];
    net_client(poisoned ? p->poison_nets[worker] : p->nets[worker], client, out);
    return OM_OK;
}

static om_status net_score_of(void *ctx, const float *x, sim_score *out, om_err *err)
{
    problem *p = ctx;
    const net_data *rows = p->has_test ? &p->test.rows : &p->train.rows;
    bool two = p->shape.classes == 2;
    double loss;
    float *score = two ? mem_array(2 * rows->n + 1, sizeof(float)) : NULL;
    if (two && !score)
        return fail(err, OM_ENOMEM, "no memory for %zu scores", rows->n);
    float *sign = two ? score + rows->n : NULL;
    for (size_t i = 0; two && i < rows->n; i++)
        sign[i] = rows->label[i] == 1 ? 1.0f : -1.0f;
    om_status s =
        net_score(p->nets, p->pool, rows, x, score, &out->loss, &out->accuracy, err);
    if (s == OM_OK && two)
        s = rank(p, score, sign, rows->n, out, err);
    mem_free(score);
    TRY(s);
    return p->backdoor.rows.n ? net_score(p->nets, p->pool, &p->backdoor.rows, x, NULL,
                                          &loss, &out->backdoor, err)
                              : OM_OK;
}

/* ---- language models ---- */

static om_status open_llm(problem *p, om_err *err)
{
    TRY(llm_problem_open(p->conf, p->k, p->pool, p->cancel, &p->llm, err));
    p->n_clients = llm_problem_clients(p->llm);
    p->dim = llm_problem_dim(p->llm);
    llm_problem_summary(p->llm, p->summary, sizeof(p->summary));
    TRY(start_at_zero(p, err));
    memcpy(p->x0, llm_problem_start(p->llm), p->dim * sizeof(float));
    return OM_OK;
}

static om_status llm_client(void *ctx, uint32_t client, int worker, fl_oracle *out,
                            om_err *err)
{
    (void)err;
    llm_problem_client(((problem *)ctx)->llm, client, worker, out);
    return OM_OK;
}

static om_status llm_score(void *ctx, const float *x, sim_score *out, om_err *err)
{
    return llm_problem_score(((problem *)ctx)->llm, x, out, err);
}

/* ---- the kinds ---- */

typedef struct {
    om_status (*open)(problem *p, om_err *err);
    om_status (*client)(void *ctx, uint32_t client, int worker, fl_oracle *out,
                        om_err *err);
    om_status (*score)(void *ctx, const float *x, sim_score *out, om_err *err);
} kind;

static const kind kinds[] = {
    [CONFIG_LLM] = {open_llm, llm_client, llm_score},
    [CONFIG_LOGISTIC] = {open_logistic, logistic_client, logistic_score},
    [CONFIG_SOFTMAX] = {open_net, net_client_of, net_score_of},
    [CONFIG_MLP] = {open_net, net_client_of, net_score_of},
    [CONFIG_CNN] = {open_net, net_client_of, net_score_of},
    [CONFIG_MULTINOMIAL] = {open_multinomial, multinomial_client, multinomial_score},
    [CONFIG_QUADRATIC] = {open_quadratic, quadratic_client, quadratic_score},
};

om_status problem_open(const config *c, const kern *k, pool *p, const om_cancel *cancel,
                       problem **out, om_err *err)
{
    const kind *what = &kinds[c->model.kind];
    problem *pr = mem_alloc(sizeof(*pr));
    if (!pr)
        return fail(err, OM_ENOMEM, "simulate: no memory");
    pr->conf = c;
    pr->k = k;
    pr->cancel = cancel;
    pr->pool = p;
    pr->threads = pool_threads(p);
    pr->n_clients = (uint32_t)c->clients;
    const attack *a = c->attack.row;
    om_status s = what->open(pr, err);
    if (s == OM_OK && a && (a->flags & (ATTACK_LABELS | ATTACK_TRIGGER)) && !pr->hostile)
        s = fail(err, OM_EARG, "attack %s poisons labelled rows; this model has none",
                 a->name);
    if (s != OM_OK) {
        problem_close(pr);
        return s;
    }
    *out = pr;
    return OM_OK;
}

void problem_close(problem *p)
{
    if (!p)
        return;
    for (int i = 0; p->nets && i < p->threads; i++)
        net_close(p->nets[i]);
    for (int i = 0; p->poison_nets && i < p->threads; i++)
        net_close(p->poison_nets[i]);
    quadratic_close(p->quadratic);
    llm_problem_close(p->llm);
    partition_close(&p->split);
    table_close(&p->train);
    table_close(&p->test);
    table_close(&p->poison);
    table_close(&p->backdoor);
    mem_free(p->poison_nets);
    mem_free(p->hostile);
    mem_free(p->class_label);
    mem_free(p->logistic);
    mem_free(p->multinomial);
    mem_free(p->nets);
    mem_free(p->x0);
    mem_free(p);
}

static uint64_t samples(void *ctx, uint32_t client)
{
    const problem *p = ctx;
    return p->split.first[client + 1] - p->split.first[client];
}

void problem_describe(problem *p, sim_config *s, const float **x0)
{
    const kind *what = &kinds[p->conf->model.kind];
    s->dim = p->dim;
    s->n_clients = p->n_clients;
    s->make_oracle = what->client;
    s->evaluate = what->score;
    s->samples = p->split.first ? samples : NULL;
    s->shape = p->llm ? llm_problem_shape(p->llm) : NULL;
    s->ctx = p;
    *x0 = p->x0;
}

const char *problem_summary(const problem *p) { return p->summary; }
