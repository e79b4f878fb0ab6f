/* model_hparams.c - limits on hyper-parameters, and rope scaling that is computed once.
 *
 * A file may claim anything; these limits are far above every published model and low
 * enough that no product of two of them overflows 64 bits or sizes a silly block. */
#include "llm/model_impl.h"

#include <math.h>

uint32_t llm_size_of(const llm_hparams *h, llm_size s)
{
    switch (s) {
    case SIZE_DIM: return h->dim;
    case SIZE_Q: return h->n_head * h->head_dim;
    case SIZE_KV: return h->n_kv_head * h->head_dim;
    case SIZE_HEAD: return h->head_dim;
    case SIZE_FFN: return h->ffn;
    case SIZE_VOCAB: return h->vocab;
    case SIZE_CONTEXT: return h->context;
    case SIZE_EXPERTS: return h->n_expert;
    case SIZE_EXPERT_FFN: return h->expert_ffn;
    case SIZE_SHARED_FFN: return h->shared_ffn;
    case SIZE_ALL_FFN: return h->n_expert * h->expert_ffn;
    case SIZE_ALL_DIM: return h->n_expert * h->dim;
    case SIZE_ONE: break;
    }
    return 1;
}

static om_status check_rope(const nn_rope_args *r, uint32_t head_dim, om_err *err)
{
    if (r->n_rot > head_dim || r->n_rot % 2 || r->n_rot == 0)
        return fail(err, OM_EFORMAT,
                    "model: rope dimension count is %u, expected an even number up to the "
                    "head width %u", r->n_rot, head_dim);
    if (!(r->base >= 1 && r->base <= 1e12f) || !(r->scale > 1e-6f && r->scale <= 1e6f))
        return fail(err, OM_EFORMAT,
                    "model: rope base %g and position scale %g are out of range",
                    (double)r->base, (double)r->scale);
    if (!(r->yarn_factor >= 0 && r->yarn_factor <= 1e6f) ||
        (r->yarn_factor > 0 && (r->yarn_ctx_orig == 0 || !(r->yarn_beta_fast > 0) ||
                                !(r->yarn_beta_slow > 0) || !isfinite(r->yarn_mscale))))
        return fail(err, OM_EFORMAT,
                    "model: YaRN scaling by %g from a context of %u is malformed",
                    (double)r->yarn_factor, r->yarn_ctx_orig);
    for (uint32_t i = 0; r->factors && i < r->n_rot / 2; i++)
        if (!(r->factors[i] > 0 && r->factors[i] < 1e9f))
            return fail(err, OM_EFORMAT, "model: rope frequency factor %u is %g", i,
                        (double)r->factors[i]);
    return OM_OK;
}

/* With these the rows of all experts still count in 32 bits. */
static om_status check_experts(const llm_hparams *h, om_err *err)
{
    if (h->n_expert == 0)
        return OM_OK;
    if (h->n_expert > 1024 || h->n_expert_used == 0 || h->n_expert_used > h->n_expert)
        return fail(err, OM_EFORMAT,
                    "model: %u experts, %u of them used; expected up to 1024, and some of them",
                    h->n_expert, h->n_expert_used);
    if (h->expert_ffn == 0 || h->expert_ffn > 1u << 20 || h->shared_ffn > 1u << 20)
        return fail(err, OM_EFORMAT,
                    "model: experts are %u wide and the shared one %u, expected 1 to %u",
                    h->expert_ffn, h->shared_ffn, 1u << 20);
    return OM_OK;
}

om_status llm_check_hparams(const llm_hparams *h, om_err *err)
{
    const struct {
        const char *name;
        uint32_t value, max;
    } row[] = {
        {"vocabulary", h->vocab, 1u << 24},     {"embedding width", h->dim, 1u << 17},
        {"block count", h->n_layer, 4096},      {"head count", h->n_head, 4096},
        {"kv head count", h->n_kv_head, 4096},  {"head width", h->head_dim, 4096},
        {"feed-forward width", h->ffn, 1u << 20}, {"context length", h->context, 1u << 30},
    };
    for (size_t i = 0; i < countof(row); i++)
        if (row[i].value == 0 || row[i].value > row[i].max)
            return fail(err, OM_EFORMAT, "model: %s is %u, expected 1 to %u", row[i].name,
                        row[i].value, row[i].max);
    if (h->n_head % h->n_kv_head)
        return fail(err, OM_EFORMAT,
                    "model: %u query heads cannot share %u kv heads evenly", h->n_head,
                    h->n_kv_head);
    if (!(h->norm_eps >= 0 && h->norm_eps <= 0.1f))
        return fail(err, OM_EFORMAT, "model: norm epsilon is %g, expected 0 to 0.1",
                    (double)h->norm_eps);
    if (!(h->attn_scale >= 0 && h->attn_scale <= 1e3f))
        return fail(err, OM_EFORMAT, "model: attention scale is %g",
                    (double)h->attn_scale);
    TRY(check_experts(h, err));
    return check_rope(&h->rope, h->head_dim, err);
}

void llm_llama3_factors(const nn_rope_args *r, const llama3_scaling *s, float *out)
{
    for (uint32_t i = 0; i < r->n_rot / 2; i++) {
        double f = pow((double)r->base, -2.0 * i / r->n_rot);
        double turns = s->ctx_orig * f / (2 * 3.14159265358979323846);
        double smooth = (turns - s->low_freq) / (s->high_freq - s->low_freq);
        smooth = fmin(fmax(smooth, 0), 1); /* 0: long waves, all scaled; 1: untouched */
        out[i] = (float)(1 / ((1 - smooth) / s->factor + smooth));
    }
}
