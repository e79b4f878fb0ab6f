/* federated.c - see federated.h. */
#include "cli/federated.h"

#include "cli/text_data.h"
#include "fl/local.h"

#include <math.h>

static om_status hash_base(const char *path, json_out *o, uint8_t sha[32], om_err *err)
{
    os_map map;
    char hex[65];
    TRY(os_map_open(path, &map, err));
    sha256(map.p, map.n, sha);
    hex_encode(sha, 32, hex);
    json_put_str(o, "model_sha256", str_of(hex));
    json_put_u64(o, "model_bytes", map.n);
    os_map_close(&map);
    return OM_OK;
}

uint32_t federated_batch(const config *k)
{
    double batch = k->recipe.p[LOCAL_BATCH];
    return batch >= 1 ? (uint32_t)batch : 8;
}

oracle_llm_config federated_oracle(const config *k, const llm_model *base, lora_config *lora)
{
    static const train_mode mode[] = {[CONFIG_LORA] = TRAIN_LORA, [CONFIG_FULL] = TRAIN_FULL,
                                      [CONFIG_MATRICES] = TRAIN_MATRICES,
                                      [CONFIG_PROMPT] = TRAIN_PROMPT};
    *lora = (lora_config){.rank = config_rank(k), .alpha = (float)k->model.lora_alpha,
                          .target_modules = k->model.target_modules, .seed = k->seed,
                          .rslora = k->model.rslora};
    return (oracle_llm_config){.base = base, .mode = mode[k->model.adaptation], .lora = lora,
                               .prompt_tokens = (uint32_t)k->model.prompt_tokens,
                               .seq_len = (uint32_t)k->data.seq_len,
                               .batch = federated_batch(k)};
}

om_status federated_llm_task(const config *k, json_out *o, uint8_t sha[32], om_err *err)
{
    if (!k->model.path[0])
        return fail(err, OM_EARG, "server: a language model needs model.path in the "
                                  "configuration");
    static const char *const names[] = {"lora", "full", "matrices", "prompt"};
    uint32_t rank = config_rank(k);
    double by = k->model.rslora ? sqrt(rank) : 1; /* a task's scale is alpha / rank */
    json_put_str(o, "adaptation", str_of(names[k->model.adaptation]));
    json_put_u64(o, "prompt_tokens", k->model.prompt_tokens);
    json_put_u64(o, "rank", rank);
    if (k->model.lora_alpha > 0)
        json_put_f64(o, "alpha", k->model.lora_alpha * by);
    json_put_str(o, "target_modules", str_of(k->model.target_modules));
    json_put_u64(o, "seq_len", k->data.seq_len);
    json_put_u64(o, "batch", federated_batch(k));
    memset(sha, 0, 32);
    return os_is_dir(k->model.path) ? OM_OK : hash_base(k->model.path, o, sha, err);
}

/* ---- measuring ------------------------------------------------------------------------ */

static om_status open_oracle(const cli *c, const config *k, federated_meter *m, om_err *err)
{
    m->k = &c->kernels;
    m->pool = c->pool;
    m->window = (uint32_t)k->data.seq_len;
    TRY(llm_open(k->model.path, &m->base, err));
    oracle_llm_config oc = federated_oracle(k, m->base, &m->lora);
    oc.batch = 1, oc.k = m->k, oc.pool = m->pool;
    return oracle_llm_open(&oc, &m->oracle, err);
}

om_status federated_meter_open(const cli *c, const config *k, federated_meter *out,
                               om_err *err)
{
    *out = (federated_meter){0};
    if (k->model.kind != CONFIG_LLM || !k->data.test_path[0])
        return OM_OK;
    om_status s = open_oracle(c, k, out, err);
    if (s == OM_OK) {
        token_text t;
        s = token_text_read(out->base, k->data.test_path, &t, err);
        out->ids = t.ids;
        out->n = t.n;
    }
    if (s != OM_OK)
        federated_meter_close(out);
    return s;
}

void federated_meter_close(federated_meter *m)
{
    oracle_llm_close(m->oracle);
    if (m->base)
        llm_close(m->base);
    mem_free(m->ids);
    *m = (federated_meter){0};
}

om_status federated_perplexity(federated_meter *m, const float *x, double *out, om_err *err)
{
    perplexity_report r;
    trainable *t = oracle_llm_trainable(m->oracle);
    memcpy(t->x, x, t->n * sizeof(float));
    TRY(llm_perplexity(t->model, m->k, m->pool, m->ids, m->n,
                       m->window + llm_prompt_tokens(t->model), m->window / 2, NULL, NULL,
                       NULL, &r, err));
    *out = r.perplexity;
    return OM_OK;
}

om_status federated_llm_save(const cli *c, const config *k, const float *x, const char *dir,
                             om_err *err)
{
    federated_meter m = {0};
    om_status s = open_oracle(c, k, &m, err);
    if (s == OM_OK) {
        trainable *t = oracle_llm_trainable(m.oracle);
        memcpy(t->x, x, t->n * sizeof(float));
        s = trainable_save(t, dir, k->model.path, DTYPE_F16, err);
    }
    federated_meter_close(&m);
    return s;
}
