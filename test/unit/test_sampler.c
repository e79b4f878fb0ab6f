/* test_sampler.c - what is drawn follows the distribution the filters leave. */
#include "test.h"

#include "llm/model.h"

enum { VOCAB = 8, DRAWS = 100000 };

/* Probabilities 0.30 0.25 0.15 0.10 0.08 0.06 0.04 0.02, shuffled over the ids. */
static const double share[VOCAB] = {0.08, 0.30, 0.02, 0.25, 0.06, 0.15, 0.04, 0.10};

static void fill(float *logits)
{
    for (int i = 0; i < VOCAB; i++)
        logits[i] = (float)log(share[i]) + 3; /* a shift changes nothing */
}

static int32_t sample(const llm_sampling *s, float *logits, const int32_t *recent, uint32_t n,
                      rng *r)
{
    char block[1024];
    return llm_sample(s, logits, VOCAB, recent, n, r, arena_of(block, sizeof(block)));
}

static void count_draws(const llm_sampling *s, long counts[VOCAB])
{
    rng r = rng_for(s->seed, 0, 0, 0);
    for (int i = 0; i < VOCAB; i++)
        counts[i] = 0;
    for (int i = 0; i < DRAWS; i++) {
        float logits[VOCAB];
        fill(logits);
        counts[sample(s, logits, NULL, 0, &r)]++;
    }
}

/* Pearson's statistic against `want` (unnormalised); ids with 0 must not occur. */
static double chi_square(test *t, const long counts[VOCAB], const double want[VOCAB])
{
    double total = 0, chi = 0;
    for (int i = 0; i < VOCAB; i++)
        total += want[i];
    for (int i = 0; i < VOCAB; i++) {
        double e = DRAWS * want[i] / total, d = (double)counts[i] - e;
        if (want[i] > 0)
            chi += d * d / e;
        else
            CHECK_INT(t, counts[i], 0);
    }
    return chi;
}

/* 24.3: the 0.1 % point of chi-square for 7 degrees of freedom. */
static void follows(test *t, const llm_sampling *s, const double want[VOCAB])
{
    long counts[VOCAB];
    count_draws(s, counts);
    CHECK(t, chi_square(t, counts, want) < 24.3);
}

static void plain(test *t)
{
    follows(t, &(llm_sampling){.temperature = 1, .seed = 1}, share);
    double hot[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        hot[i] = pow(share[i], 1 / 2.0);
    follows(t, &(llm_sampling){.temperature = 2, .seed = 2}, hot);
    /* The statistic must notice a wrong temperature. */
    long counts[VOCAB];
    count_draws(&(llm_sampling){.temperature = 1.1f, .seed = 3}, counts);
    CHECK(t, chi_square(t, counts, share) > 100);
}

static void filters(test *t)
{
    follows(t, &(llm_sampling){.temperature = 1, .seed = 4, .top_k = 3},
            (double[VOCAB]){0, 0.30, 0, 0.25, 0, 0.15, 0, 0});
    follows(t, &(llm_sampling){.temperature = 1, .seed = 5, .top_k = 100}, share);
    /* 0.30 + 0.25 + 0.15 = 0.70 < 0.75: a fourth is needed */
    follows(t, &(llm_sampling){.temperature = 1, .seed = 6, .top_p = 0.75f},
            (double[VOCAB]){0, 0.30, 0, 0.25, 0, 0.15, 0, 0.10});
    /* 0.21 * 0.30 = 0.063: 0.06 and below go */
    follows(t, &(llm_sampling){.temperature = 1, .seed = 7, .min_p = 0.21f},
            (double[VOCAB]){0.08, 0.30, 0, 0.25, 0, 0.15, 0, 0.10});
    /* top-p counts shares of what top-k left: (0.30 + 0.25) / 0.80 < 0.7 */
    follows(t, &(llm_sampling){.temperature = 1, .seed = 8, .top_k = 4, .top_p = 0.7f},
            (double[VOCAB]){0, 0.30, 0, 0.25, 0, 0.15, 0, 0});
    follows(t, &(llm_sampling){.temperature = 1, .seed = 9, .top_p = 1e-6f},
            (double[VOCAB]){0, 1, 0, 0, 0, 0, 0, 0});
}

static void greedy(test *t)
{
    float logits[VOCAB];
    rng r = rng_for(0, 0, 0, 0);
    llm_sampling s = {.temperature = 0};
    fill(logits);
    CHECK_INT(t, sample(&s, logits, NULL, 0, &r), 1);
    logits[6] = NAN;
    logits[2] = INFINITY;
    CHECK_INT(t, sample(&s, logits, NULL, 0, &r), 2);
    for (int i = 0; i < VOCAB; i++)
        logits[i] = NAN;
    CHECK_INT(t, sample(&s, logits, NULL, 0, &r), 0);
    s.temperature = 1;
    CHECK_INT(t, sample(&s, logits, NULL, 0, &r), 0);
    for (int i = 0; i < VOCAB; i++)
        logits[i] = -INFINITY;
    s.top_k = 3;
    CHECK_INT(t, sample(&s, logits, NULL, 0, &r), 0);
}

static void penalty(test *t)
{
    /* Positive logits are divided, negative multiplied, once however often seen. */
    float logits[VOCAB] = {1, 4, -1, 2.1f, 0, 0, 0, 0};
    rng r = rng_for(0, 0, 0, 0);
    llm_sampling s = {.repeat_penalty = 2};
    const int32_t recent[] = {1, 1, 1, 2, -5, 1000};
    CHECK_INT(t, sample(&s, logits, recent, countof(recent), &r), 3);
    CHECK_NEAR(t, logits[1], 2, 0);
    CHECK_NEAR(t, logits[2], -2, 0);
    CHECK_NEAR(t, logits[3], 2.1f, 0);
}

static void same_seed(test *t)
{
    llm_sampling s = {.temperature = 1, .top_k = 5, .top_p = 0.9f};
    rng a = rng_for(7, 0, 0, 0), b = rng_for(7, 0, 0, 0), c = rng_for(8, 0, 0, 0);
    int differ = 0;
    for (int i = 0; i < 200; i++) {
        float x[VOCAB], y[VOCAB], z[VOCAB];
        fill(x);
        fill(y);
        fill(z);
        int32_t first = sample(&s, x, NULL, 0, &a);
        CHECK_INT(t, first, sample(&s, y, NULL, 0, &b));
        differ += first != sample(&s, z, NULL, 0, &c);
    }
    CHECK(t, differ > 50);
}

int main(int argc, char **argv)
{
    static const test_case list[] = {
        {"plain", "draws follow the temperature's distribution", plain},
        {"filters", "top-k, top-p, min-p leave the right tokens and shares", filters},
        {"greedy", "temperature 0, NaN and infinity", greedy},
        {"penalty", "the repetition penalty", penalty},
        {"same_seed", "the seed decides", same_seed},
        {0},
    };
    return test_main(argc, argv, list);
}
