/* test_algo_golden.c - federated methods against models computed elsewhere:
 * double-precision NumPy from the papers' rules (test/golden/fl_golden.py), randomised
 * methods included, as the script draws the same random numbers. */
#include "fl/algo.h"
#include "sim/sim.h"
#include "test.h"

enum { CLIENTS = 4, DIM = 12, ROUNDS = 25 };

static om_status grad(void *ctx, const float *x, float *g, double *loss, om_err *err)
{
    uint32_t i = *(const uint32_t *)ctx;
    double sum = 0;
    (void)err;
    for (uint32_t j = 0; j < DIM; j++) {
        double a = 0.1 + 0.09 * ((3 * i + 7 * j) % 11);
        double c = ((double)((5 * i + 3 * j) % 13) - 6) / 4 + 0.01 * j + 0.003 * i;
        double away = (double)x[j] - c;
        sum += 0.5 * a * away * away;
        g[j] = (float)(a * away);
    }
    if (loss)
        *loss = sum;
    return OM_OK;
}

static om_status client_of(void *ctx, uint32_t client, int worker, fl_oracle *out,
                           om_err *err)
{
    uint32_t *self = ctx;
    (void)worker, (void)err;
    *self = client;
    *out = (fl_oracle){.dim = DIM, .n_samples = 10, .ctx = self, .grad = grad};
    return OM_OK;
}

/* "algorithm[/aggregator against one] params codec params x_0 ... x_11" */
static void one(test *t, char *line)
{
    static const float zero[DIM];
    static kern k;
    uint32_t self;
    om_err err = {0};
    sim *s = NULL;
    sim_row row;
    char *word[4];
    for (int i = 0; i < 4; i++)
        word[i] = strtok(i ? NULL : line, " ");
    kern_init(&k, 0);
    char *rule = strchr(word[0], '/');
    if (rule)
        *rule++ = 0;
    sim_config c = {.dim = DIM,
                    .n_clients = CLIENTS,
                    .cohort = CLIENTS,
                    .seed = 11,
                    .k = &k,
                    .make_oracle = client_of,
                    .ctx = &self};
    CHECK_OK(t,
             fl_recipe_of(str_of(word[0]), str_of(word[1]), str_of(word[2]),
                          str_of(word[3][0] == '-' ? "" : word[3]), &c.recipe, &err),
             err);
    if (rule)
        CHECK_OK(t, fl_recipe_robust(&c.recipe, str_of(rule), STR("num_byzantine=1"), &err),
                 err);
    CHECK_OK(t, sim_open(&c, zero, &s, &err), err);
    for (int i = 0; i < ROUNDS; i++)
        CHECK_OK(t, sim_round(s, &row, &err), err);
    for (int j = 0; j < DIM; j++) {
        double want = atof(strtok(NULL, " ")), got = (double)sim_model(s)[j];
        if (!(fabs(got - want) < 2e-5))
            test_fail(t, __FILE__, __LINE__, "%s %s: number %d is %.9g, expected %.9g",
                      word[0], word[1], j, got, want);
    }
    sim_close(s);
}

static void golden(test *t)
{
    char line[1000];
    int n = 0;
    FILE *f = fopen(OM_SOURCE_DIR "/test/golden/fl.txt", "r");
    CHECK(t, f != NULL);
    while (f && fgets(line, sizeof(line), f)) {
        one(t, line);
        n++;
    }
    CHECK_INT(t, n, 24);
    if (f)
        fclose(f);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"golden", "25 rounds of every deterministic family, and randomised ones", golden},
        {0}};
    return test_main(argc, argv, cases);
}
