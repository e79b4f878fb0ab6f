/* test_compare.c - KL divergence, agreement and perplexity of a model beside a reference,
 * against figures summed up here from logits of a session, token by token. */
#include "test.h"

#include "llm/perplexity.h"

static const char *const folder = OM_SOURCE_DIR "/test/golden/arch/llama3";

enum { TOKENS = 60 };

typedef struct {
    kern k;
    llm_model *base, *small;
    int32_t ids[TOKENS];
} pair;

static bool open_pair(test *t, pair *p)
{
    om_err err;
    char path[512];
    *p = (pair){0};
    kern_init(&p->k, 0);
    snprintf(path, sizeof(path), "%s/q4.gguf", test_temp_dir());
    CHECK_OK(t, llm_open(folder, &p->base, &err), err);
    CHECK_OK(t, llm_write_gguf(p->base, path, DTYPE_Q4_0, NULL, NULL, &err), err);
    CHECK_OK(t, llm_open(path, &p->small, &err), err);
    rng r = rng_for(3, 0, 0, 0);
    for (int i = 0; p->base && i < TOKENS; i++)
        p->ids[i] = (int32_t)rng_below(&r, p->base->h.vocab);
    return p->base && p->small;
}

static void close_pair(pair *p)
{
    llm_close(p->small);
    llm_close(p->base);
}

static void with_itself(test *t)
{
    pair p;
    om_err err;
    if (open_pair(t, &p)) {
        compare_args a = {.k = &p.k, .window = 32, .stride = 16};
        perplexity_report base, alone;
        comparison r[2];
        llm_model *m[2] = {p.base, p.small};
        CHECK_OK(t, llm_compare(p.base, m, 2, p.ids, TOKENS, &a, &base, r, &err), err);
        CHECK_NEAR(t, r[0].kl, 0, 1e-12);
        CHECK_NEAR(t, r[0].same_top, 1, 0);
        CHECK_NEAR(t, r[0].ratio, 1, 1e-12);
        CHECK(t, r[1].kl > 1e-6 && r[1].kl_99 >= r[1].kl && r[1].kl_low <= r[1].kl);
        CHECK_OK(t, llm_perplexity(p.small, &p.k, NULL, p.ids, TOKENS, 32, 16, NULL, NULL, NULL,
                                   &alone, &err), err);
        CHECK_INT(t, r[1].p.tokens, alone.tokens);
        CHECK_NEAR(t, r[1].p.perplexity, alone.perplexity, 1e-4 * alone.perplexity);
        CHECK_NEAR(t, r[1].ratio, alone.perplexity / base.perplexity, 1e-4);
    }
    close_pair(&p);
}

static double log_z(const float *x, uint32_t n)
{
    double z = 0;
    for (uint32_t i = 0; i < n; i++)
        z += exp((double)x[i]);
    return log(z);
}

/* One window over all: KL of every token from the logits of two sessions. */
static void by_hand(test *t)
{
    pair p;
    om_err err;
    if (!open_pair(t, &p)) {
        close_pair(&p);
        return;
    }
    llm_session_args sa = {.context = TOKENS, .k = &p.k};
    llm_session *s[2] = {NULL, NULL};
    CHECK_OK(t, llm_session_open(p.base, &sa, &s[0], &err), err);
    CHECK_OK(t, llm_session_open(p.small, &sa, &s[1], &err), err);
    uint32_t vocab = p.base->h.vocab, same = 0;
    double kl = 0;
    for (int i = 0; i + 1 < TOKENS; i++) {
        const float *a, *b;
        CHECK_OK(t, llm_eval(s[0], &p.ids[i], 1, &a, &err), err);
        CHECK_OK(t, llm_eval(s[1], &p.ids[i], 1, &b, &err), err);
        double za = log_z(a, vocab), zb = log_z(b, vocab);
        uint32_t ta = 0, tb = 0;
        for (uint32_t v = 0; v < vocab; v++) {
            double la = (double)a[v] - za, lb = (double)b[v] - zb;
            kl += exp(la) * (la - lb);
            ta = a[v] > a[ta] ? v : ta;
            tb = b[v] > b[tb] ? v : tb;
        }
        same += ta == tb;
    }
    compare_args a = {.k = &p.k, .window = TOKENS, .stride = TOKENS - 1};
    comparison r;
    CHECK_OK(t, llm_compare(p.base, &p.small, 1, p.ids, TOKENS, &a, NULL, &r, &err), err);
    CHECK_INT(t, r.p.tokens, TOKENS - 1);
    CHECK_NEAR(t, r.kl, kl / (TOKENS - 1), 1e-4 * kl / (TOKENS - 1) + 1e-7);
    CHECK_NEAR(t, r.same_top, (double)same / (TOKENS - 1), 1e-9);
    llm_session_close(s[0]);
    llm_session_close(s[1]);
    close_pair(&p);
}

/* Disjoint windows of 16: 8 to 15 of each are predicted, what does not fill one is not. */
static void halves(test *t)
{
    pair p;
    om_err err;
    if (open_pair(t, &p)) {
        perplexity_report whole, cut;
        double sum = 0;
        CHECK_OK(t, llm_perplexity(p.base, &p.k, NULL, p.ids, TOKENS, 16, PERPLEXITY_HALVES,
                                   NULL, NULL, NULL, &whole, &err), err);
        CHECK_INT(t, whole.tokens, 3 * 7);
        for (int i = 0; i + 16 <= TOKENS; i += 16) {
            CHECK_OK(t, llm_perplexity(p.base, &p.k, NULL, p.ids + i, 16, 16,
                                       PERPLEXITY_HALVES, NULL, NULL, NULL, &cut, &err), err);
            sum += cut.nll / 3;
        }
        CHECK_NEAR(t, whole.nll, sum, 1e-6);
        CHECK_INT(t, llm_perplexity(p.base, &p.k, NULL, p.ids, 15, 16, PERPLEXITY_HALVES, NULL,
                                    NULL, NULL, &cut, &err), OM_EARG);
    }
    close_pair(&p);
}

static void refused(test *t)
{
    pair p;
    om_err err;
    if (open_pair(t, &p)) {
        comparison r;
        compare_args a = {.k = &p.k};
        llm_hparams *h = &p.small->h;
        CHECK_INT(t, llm_compare(p.base, NULL, 0, p.ids, TOKENS, &a, NULL, &r, &err), OM_EARG);
        h->vocab--;
        CHECK_INT(t, llm_compare(p.base, &p.small, 1, p.ids, TOKENS, &a, NULL, &r, &err),
                  OM_EARG);
        h->vocab++;
    }
    close_pair(&p);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"with_itself", "a model is at no distance from itself", with_itself},
        {"by_hand", "KL and agreement equal sums over a session's logits", by_hand},
        {"halves", "second halves of disjoint windows", halves},
        {"refused", "no model, another vocabulary", refused},
        {0}};
    return test_main(argc, argv, cases);
}
