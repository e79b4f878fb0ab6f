/* problem_llm.c - see problem_llm.h.
 *
 * data.path is a folder, one text file a client (its name order is the clients' order),
 * or one file, cut in equal runs for `clients` clients.  The score is the mean negative
 * log-likelihood of a token of data.test_path; without one, of the first client's text. */
#include "cli/federated.h"
#include "cli/problem_llm.h"
#include "fl/oracle/llm.h"

#include <stdio.h>

enum { MOST_TEXT_BYTES = 1 << 30, SHORTEST = 2 };

struct llm_problem {
    const config *conf;
    const kern *k;
    pool *pool;
    const om_cancel *cancel;
    int threads;
    llm_model *base;
    oracle_llm **worker; /* (threads) */
    token_data *client;  /* (n_clients) views of ids */
    uint32_t n_clients, cap;
    int32_t **ids; /* (n_ids) blocks of tokens */
    uint32_t n_ids;
    token_data test;
    fl_shape shape; /* n 0: none */
    fl_matrix *matrix;
    uint32_t rank[CONFIG_MOST_RANKS];
};

/* ---- texts ---- */

/* The tokens of a file, in a block the problem owns. */
static om_status read_tokens(llm_problem *p, const char *path, int32_t **ids, size_t *n,
                             om_err *err)
{
    os_map m;
    TRY(os_map_open(path, &m, err));
    om_status s = m.n > MOST_TEXT_BYTES
                      ? fail(err, OM_ELIMIT, "'%s' is larger than 1 GB", path)
                      : OM_OK;
    if (s == OM_OK)
        s = llm_tokenize(p->base, (str){(const char *)m.p, m.n}, ids, n, err);
    os_map_close(&m);
    TRY(s);
    p->ids[p->n_ids++] = *ids;
    if (*n < SHORTEST)
        return fail(err, OM_EARG, "'%s' has %zu tokens, too few to learn from", path, *n);
    return OM_OK;
}

static om_status one_file(void *ctx, const char *name, om_err *err)
{
    llm_problem *p = ctx;
    char path[CONFIG_PATH_BYTES + 300];
    int32_t *ids;
    size_t n;
    if (os_join(path, sizeof(path), p->conf->data.path, name) != OM_OK)
        return fail(err, OM_ELIMIT, "'%s/%s' is too long a path", p->conf->data.path, name);
    if (name[0] == '.' || os_is_dir(path))
        return OM_OK;
    if (p->n_clients == p->cap)
        return fail(err, OM_EARG, "'%s' holds more files than clients: %u; raise clients",
                    p->conf->data.path, (unsigned)p->cap);
    TRY(read_tokens(p, path, &ids, &n, err));
    p->client[p->n_clients++] = (token_data){ids, n, (uint32_t)p->conf->data.seq_len};
    return OM_OK;
}

static om_status cut_file(llm_problem *p, om_err *err)
{
    int32_t *ids;
    size_t n, each;
    TRY(read_tokens(p, p->conf->data.path, &ids, &n, err));
    each = n / p->cap;
    if (each < SHORTEST)
        return fail(err, OM_EARG, "'%s' has %zu tokens, too few for %u clients",
                    p->conf->data.path, n, (unsigned)p->cap);
    for (uint32_t c = 0; c < p->cap; c++)
        p->client[c] = (token_data){ids + c * each, each, (uint32_t)p->conf->data.seq_len};
    p->n_clients = p->cap;
    return OM_OK;
}

static om_status read_texts(llm_problem *p, om_err *err)
{
    const config *c = p->conf;
    if (c->data.format != CONFIG_TEXT_FILES || !c->data.path[0])
        return fail(err, OM_EARG,
                    "model.kind llm learns from data.format text at data.path");
    p->cap = (uint32_t)c->clients;
    p->client = mem_array(p->cap, sizeof(*p->client));
    p->ids = mem_array((size_t)p->cap + 1, sizeof(*p->ids));
    if (!p->client || !p->ids)
        return fail(err, OM_ENOMEM, "no memory for %u clients", (unsigned)p->cap);
    if (os_is_dir(c->data.path))
        TRY(os_list_dir(c->data.path, one_file, p, err));
    else
        TRY(cut_file(p, err));
    if (p->n_clients == 0)
        return fail(err, OM_EARG, "'%s' holds no text files", c->data.path);
    p->test = p->client[0];
    if (!c->data.test_path[0])
        return OM_OK;
    int32_t *ids;
    size_t n;
    TRY(read_tokens(p, c->data.test_path, &ids, &n, err));
    p->test = (token_data){ids, n, (uint32_t)c->data.seq_len};
    return OM_OK;
}

/* ---- open ---- */

static om_status open_workers(llm_problem *p, om_err *err)
{
    const config *c = p->conf;
    lora_config lora;
    oracle_llm_config oc = federated_oracle(c, p->base, &lora);
    oc.k = p->k, oc.cancel = p->cancel;
    p->worker = mem_array((size_t)p->threads, sizeof(*p->worker));
    if (!p->worker)
        return fail(err, OM_ENOMEM, "no memory for %d trainers", p->threads);
    for (int i = 0; i < p->threads; i++)
        TRY(oracle_llm_open(&oc, &p->worker[i], err));
    return OM_OK;
}

static om_status describe_shape(llm_problem *p, om_err *err)
{
    const trainable *t = oracle_llm_trainable(p->worker[0]);
    uint32_t each = t->mode == TRAIN_LORA ? 2 : 1; /* parts of a matrix: A and B, or itself */
    if (t->mode != TRAIN_LORA && t->mode != TRAIN_MATRICES)
        return OM_OK;
    p->matrix = mem_array(t->n_part / each, sizeof(*p->matrix));
    if (!p->matrix)
        return fail(err, OM_ENOMEM, "no memory for %u matrices", t->n_part);
    for (uint32_t i = 0; i < t->n_part; i += each)
        p->matrix[i / each] = (fl_matrix){t->part[i].offset, t->part[i + each - 1].offset,
                                          t->part[i].weight->rows, t->part[i].weight->cols};
    p->shape = (fl_shape){.m = p->matrix, .n = t->n_part / each,
                          .rank = each == 2 ? t->lora.rank : 0, .ranks = p->rank,
                          .n_ranks = config_ranks(p->conf, p->rank)};
    return OM_OK;
}

static om_status fill(llm_problem *p, om_err *err)
{
    if (!p->conf->model.path[0])
        return fail(err, OM_EARG, "model.path is not set; it names the model to adapt");
    TRY(llm_open(p->conf->model.path, &p->base, err));
    if (!p->base->tok)
        return fail(err, OM_EARG, "'%s' has no tokenizer", p->conf->model.path);
    TRY(read_texts(p, err));
    TRY(open_workers(p, err));
    return describe_shape(p, err);
}

om_status llm_problem_open(const config *c, const kern *k, pool *pl,
                           const om_cancel *cancel, llm_problem **out, om_err *err)
{
    llm_problem *p = mem_alloc(sizeof(*p));
    if (!p)
        return fail(err, OM_ENOMEM, "simulate: no memory");
    p->conf = c;
    p->k = k;
    p->pool = pl;
    p->cancel = cancel;
    p->threads = pool_threads(pl);
    om_status s = fill(p, err);
    if (s != OM_OK) {
        llm_problem_close(p);
        return s;
    }
    *out = p;
    return OM_OK;
}

void llm_problem_close(llm_problem *p)
{
    if (!p)
        return;
    for (int i = 0; p->worker && i < p->threads; i++)
        oracle_llm_close(p->worker[i]);
    for (uint32_t i = 0; i < p->n_ids; i++)
        mem_free(p->ids[i]);
    if (p->base)
        llm_close(p->base);
    mem_free(p->worker);
    mem_free(p->matrix);
    mem_free(p->client);
    mem_free(p->ids);
    mem_free(p);
}

/* ---- use ---- */

size_t llm_problem_dim(const llm_problem *p) { return oracle_llm_dim(p->worker[0]); }
uint32_t llm_problem_clients(const llm_problem *p) { return p->n_clients; }
const fl_shape *llm_problem_shape(const llm_problem *p)
{
    return p->shape.n ? &p->shape : NULL;
}
const float *llm_problem_start(const llm_problem *p)
{
    return oracle_llm_start(p->worker[0]);
}

void llm_problem_summary(const llm_problem *p, char *out, size_t cap)
{
    static const char *const what[] = {"LoRA", "all weights", "target modules", "prompt"};
    const config *c = p->conf;
    size_t least = SIZE_MAX, most = 0;
    for (uint32_t i = 0; i < p->n_clients; i++) {
        least = size_min(least, p->client[i].n);
        most = size_max(most, p->client[i].n);
    }
    snprintf(out, cap,
             "%.80s, %zu trainable numbers (%s); %u clients with %zu to %zu tokens",
             c->model.path, llm_problem_dim(p),
             what[c->model.adaptation],
             (unsigned)p->n_clients, least, most);
}

void llm_problem_client(llm_problem *p, uint32_t client, int worker, fl_oracle *out)
{
    *out = oracle_llm_client(p->worker[worker], &p->client[client]);
}

om_status llm_problem_score(llm_problem *p, const float *x, sim_score *out, om_err *err)
{
    trainable *t = oracle_llm_trainable(p->worker[0]);
    perplexity_report r;
    uint32_t lead = llm_prompt_tokens(t->model);
    uint32_t window =
        (uint32_t)size_min(4 * p->conf->data.seq_len, p->base->h.context - lead) + lead;
    memcpy(t->x, x, t->n * sizeof(float));
    TRY(llm_perplexity(t->model, p->k, p->pool, p->test.ids, p->test.n, window,
                       (window - lead) / 2,
                       p->cancel, NULL, NULL, &r, err));
    out->loss = r.nll;
    return OM_OK;
}
