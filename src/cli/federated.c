/* federated.c - see federated.h. */
#include "cli/federated.h"

#include "cli/text_data.h"
#include "fl/local.h"

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

om_status federated_llm_task(const config *k, json_out *o, uint8_t sha[32], om_err *err)
{
    if (!k->model.path[0])
        return fail(err, OM_EARG, "server: a language model needs model.path in the "
                                  "configuration");
    json_put_str(o, "adaptation", k->model.adaptation == CONFIG_FULL ? STR("full")
                                                                     : STR("lora"));
    json_put_u64(o, "rank", k->model.lora_rank);
    if (k->model.lora_alpha > 0)
        json_put_f64(o, "alpha", k->model.lora_alpha);
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
    m->lora = (lora_config){.rank = (uint32_t)k->model.lora_rank,
                            .alpha = (float)k->model.lora_alpha,
                            .target_modules = k->model.target_modules, .seed = k->seed};
    oracle_llm_config oc = {.base = m->base,
                            .lora = k->model.adaptation == CONFIG_FULL ? NULL : &m->lora,
                            .seq_len = m->window, .batch = 1, .k = m->k, .pool = m->pool};
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
    TRY(llm_perplexity(t->model, m->k, m->pool, m->ids, m->n, m->window, m->window / 2, NULL,
                       NULL, NULL, &r, err));
    *out = r.perplexity;
    return OM_OK;
}

om_status federated_llm_save(const cli *c, const config *k, const float *x, const char *dir,
                             om_err *err)
{
    federated_meter m = {0};
    char path[4096];
    om_status s = open_oracle(c, k, &m, err);
    const char *name = k->model.adaptation == CONFIG_FULL ? "model.gguf" : "adapter.gguf";
    if (s == OM_OK)
        s = os_mkdirs(dir, err);
    if (s == OM_OK && os_join(path, sizeof(path), dir, name) != OM_OK)
        s = fail(err, OM_EARG, "the folder '%.80s...' has too long a name", dir);
    if (s == OM_OK) {
        trainable *t = oracle_llm_trainable(m.oracle);
        memcpy(t->x, x, t->n * sizeof(float));
        s = t->mode == TRAIN_FULL ? llm_write_gguf(t->model, path, DTYPE_F16, NULL, NULL, err)
                                  : lora_save_gguf(t, path, err);
        if (s == OM_OK && t->mode == TRAIN_LORA)
            s = peft_save(t, dir, k->model.path, err);
    }
    federated_meter_close(&m);
    return s;
}
