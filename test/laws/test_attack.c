/* test_attack.c - hostile clients: their forgeries by formula, and a simulated federation
 * under each of them, on quadratics with a known optimum. */
#include "fl/attack/attack.h"
#include "fl/oracle/quadratic.h"
#include "sim/sim.h"
#include "test.h"

enum { DIM = 20, CLIENTS = 20, HOSTILE = 6 };

static const attack *find(test *t, const char *name)
{
    const attack *a = NULL;
    om_err err = {0};
    CHECK_OK(t, attack_need(str_of(name), &a, &err), err);
    return a;
}

/* ---- forgeries ---- */

typedef struct {
    float honest[15 * 2], own[2], mean[2], dev[2], out[2];
    double p[8];
    attack_view v;
} scene;

static void set_scene(scene *s, const attack *a, size_t honest, size_t hostile)
{
    *s = (scene){.own = {3, -4}, .mean = {1, 2}, .dev = {2, 0.5f}};
    for (size_t i = 0; i < honest && i < 15; i++)
        s->honest[2 * i] = (float)i, s->honest[2 * i + 1] = 1;
    s->v = (attack_view){.honest = {honest, 2, 2, s->honest},
                         .mean = s->mean,
                         .dev = s->dev,
                         .hostile = hostile,
                         .own = s->own,
                         .first = s->own,
                         .p = s->p,
                         .r = {1, 0},
                         .shared = {2, 0}};
    param_defaults(a->params, s->p);
}

static void forge(scene *s, const attack *a) { a->forge(&s->v, s->out); }

static void formulas(test *t)
{
    static const struct {
        const char *name;
        float x, y;
    } want[] = {{"sign_flip", -3, 4},  {"label_flip", 3, -4}, {"ipm", -0.1f, -0.2f},
                {"foe", -1.1f, -2.2f}, {"sybil", 3, -4},      {"backdoor", 12, -16}};
    scene s;
    for (size_t i = 0; i < countof(want); i++) {
        const attack *a = find(t, want[i].name);
        set_scene(&s, a, 15, 5);
        forge(&s, a);
        CHECK_NEAR(t, s.out[0], want[i].x, 1e-6);
        CHECK_NEAR(t, s.out[1], want[i].y, 1e-6);
    }
}

/* Published z for (n, attackers): (20,5) .25335, (10,2) 0, (100,20) .28584; the honest
 * mean is 1, 2 and the deviations 2, 0.5. */
static void alie(test *t)
{
    static const struct {
        size_t honest, hostile;
        double z;
    } want[] = {{15, 5, 0.25335}, {8, 2, 0}, {80, 20, 0.28584}};
    const attack *a = find(t, "alie");
    for (size_t i = 0; i < countof(want); i++) {
        scene s;
        set_scene(&s, a, want[i].honest, want[i].hostile);
        forge(&s, a);
        CHECK_NEAR(t, s.out[0], 1 - 2 * want[i].z, 2e-5);
        CHECK_NEAR(t, s.out[1], 2 - 0.5 * want[i].z, 2e-5);
    }
}

/* The honest differ along the first coordinate, 0 to 14: an end is copied. */
static void mimic(test *t)
{
    const attack *a = find(t, "mimic");
    scene s;
    set_scene(&s, a, 15, 5);
    s.mean[0] = 7, s.mean[1] = 1;
    forge(&s, a);
    CHECK(t, s.out[0] <= 0 || s.out[0] >= 14);
    CHECK_NEAR(t, s.out[1], 1, 0);
}

static void chosen(test *t)
{
    uint8_t hostile[1000];
    attack_rule a = {.row = find(t, "alie"), .p = {0.3}};
    uint32_t n = 0;
    CHECK_INT(t, attack_choose(&a, 5, 1000, hostile), 300);
    for (int i = 0; i < 1000; i++)
        n += hostile[i];
    CHECK_INT(t, n, 300);
    CHECK_INT(t, attack_choose(&(attack_rule){0}, 5, 1000, hostile), 0);
}

static void poisons(test *t)
{
    static const int32_t label[4] = {0, 1, 9, 5};
    int32_t out[4];
    uint8_t rows[2 * 16] = {0};
    poison_labels(label, 4, 10, out);
    CHECK(t, out[0] == 9 && out[1] == 8 && out[2] == 0 && out[3] == 4);
    poison_trigger(rows, 2, 4, 4);
    int white = 0;
    for (size_t i = 0; i < sizeof(rows); i++)
        white += rows[i] == 255;
    CHECK_INT(t, white, 18);
    CHECK(t, rows[3] == 0 && rows[12] == 0 && rows[16] == 255);
}

/* ---- a federation ---- */

static om_status client_of(void *ctx, uint32_t client, int worker, fl_oracle *out,
                           om_err *err)
{
    (void)worker, (void)err;
    quadratic_oracle(ctx, client, out);
    return OM_OK;
}

static sim_config config_of_algo(test *t, quadratic *q, const kern *k, const char *const algo[4],
                                 const char *rule, const char *rule_params, const attack *a)
{
    sim_config c = {.dim = DIM,
                    .n_clients = CLIENTS,
                    .cohort = CLIENTS,
                    .asked = CLIENTS,
                    .min = 2,
                    .seed = 8,
                    .k = k,
                    .ctx = q,
                    .make_oracle = client_of};
    om_err err = {0};
    CHECK_OK(t,
             fl_recipe_of(str_of(algo[0]), str_of(algo[1]), str_of(algo[2]),
                          str_of(algo[3]), &c.recipe, &err),
             err);
    CHECK_OK(t, fl_recipe_robust(&c.recipe, str_of(rule), str_of(rule_params), &err), err);
    c.attack.row = a;
    if (a)
        param_defaults(a->params, c.attack.p);
    return c;
}

static sim_config config_of(test *t, quadratic *q, const kern *k, const char *rule,
                            const char *rule_params, const attack *a)
{
    static const char *const fedavg[4] = {"fedavg", "batch=0,local_steps=3,lr=0.3",
                                          "identity", ""};
    return config_of_algo(t, q, k, fedavg, rule, rule_params, a);
}

static const quadratic_config bowl = {
    .dim = DIM, .n_clients = CLIENTS, .mu = 0.2, .smooth = 1, .heterogeneity = 0.2,
    .seed = 3};

/* Distance to the optimum after so many rounds; infinite when it is not finite. */
static double miss_after(test *t, const sim_config *c, quadratic *q, int rounds,
                         sim_row *last)
{
    static const float start[DIM] = {1, 2, 3};
    float best[DIM];
    sim *s;
    om_err err = {0};
    double sum = 0;
    CHECK_OK(t, sim_open(c, start, &s, &err), err);
    for (int i = 0; i < rounds; i++)
        CHECK_OK(t, sim_round(s, last, &err), err);
    quadratic_optimum(q, best);
    for (int i = 0; i < DIM; i++)
        sum += pow((double)sim_model(s)[i] - (double)best[i], 2);
    sim_close(s);
    return isfinite(sum) ? sqrt(sum) : HUGE_VAL;
}

static double miss(test *t, const sim_config *c, quadratic *q, sim_row *last)
{
    return miss_after(t, c, q, 60, last);
}

static void defended(test *t)
{
    om_err err = {0};
    quadratic *q;
    kern k;
    sim_row row;
    kern_init(&k, 0);
    CHECK_OK(t, quadratic_open(&bowl, &q, &err), err);
    sim_config c = config_of(t, q, &k, "mean", "", NULL);
    double peace = miss(t, &c, q, &row), worst = 0;
    for (size_t i = 0; attacks[i]; i++) {
        static const char *const rules[][2] = {
            {"median", "num_byzantine=6,pre=nnm"},
            {"trimmed_mean", "num_byzantine=6,pre=nnm"},
            {"geometric_median", "num_byzantine=6,pre=nnm"}};
        for (size_t j = 0; j < countof(rules); j++) {
            c = config_of(t, q, &k, rules[j][0], rules[j][1], attacks[i]);
            worst = fmax(worst, miss(t, &c, q, &row));
        }
        CHECK_INT(t, row.refused, strcmp(attacks[i]->name, "nan") == 0 ? HOSTILE : 0);
    }
    /* unlike clients leave an error of their own; the start is 3.7 away */
    CHECK(t, worst < peace + 0.6);
    c = config_of(t, q, &k, "mean", "", find(t, "gaussian"));
    CHECK(t, miss(t, &c, q, &row) > 10); /* and the mean is lost */
    c = config_of(t, q, &k, "mean", "", find(t, "bit_flip"));
    c.attack.p[ATTACK_COMMON] = 1;
    CHECK(t, miss(t, &c, q, &row) > 0.5);
    CHECK(t, row.unchanged); /* absurd means are refused, round after round */
    quadratic_close(q);
}

/* The methods made for hostile clients, and what they stand on: all data alike, so that
 * variance reduction leaves no noise to hide in. */
static const quadratic_config alike = {
    .dim = DIM, .n_clients = CLIENTS, .mu = 0.2, .smooth = 1, .seed = 3};
static const char *const byzantine[][4] = {
    {"byz-vr-marina", "lr=0.5,batch=8", "randk", "ratio=0.5"},
    {"byz-vr-marina-pp", "lr=0.3,batch=8,clip=4,participation=0.8,p=0.3", "randk",
     "ratio=0.5"},
    {"byz-ef21-sgdm", "lr=0.2,eta=0.3", "topk", "ratio=0.3"},
    {"byz-dasha", "lr=0.3", "randk", "ratio=0.5"},
    {"byz-dasha-page", "lr=0.3,batch=8", "randk", "ratio=0.5"}};

/* Every method, under every attack, by every kind of rule, goes to the optimum itself. */
static void byzantine_exact(test *t)
{
    static const char *const rules[][2] = {
        {"median", "num_byzantine=6,pre=nnm"},
        {"trimmed_mean", "num_byzantine=6"}};
    om_err err = {0};
    quadratic *q;
    kern k;
    sim_row row;
    kern_init(&k, 0);
    CHECK_OK(t, quadratic_open(&alike, &q, &err), err);
    for (size_t m = 0; m < countof(byzantine); m++)
        for (size_t i = 0; attacks[i]; i++)
            for (size_t j = 0; j < countof(rules); j++) {
                sim_config c = config_of_algo(t, q, &k, byzantine[m], rules[j][0],
                                              rules[j][1], attacks[i]);
                double off = miss_after(t, &c, q, 250, &row);
                if (!(off < 2e-3)) /* of 6 */
                    test_fail(t, __FILE__, __LINE__, "%s under %s by %s is %g off",
                              byzantine[m][0], attacks[i]->name, rules[j][0], off);
            }
    for (size_t m = 0; m < countof(byzantine); m++) { /* and by the mean it does not */
        sim_config c = config_of_algo(t, q, &k, byzantine[m], "mean", "",
                                      find(t, "gaussian"));
        CHECK(t, miss_after(t, &c, q, 60, &row) > 1);
    }
    quadratic_close(q);
}

/* The attackers' coins and the rule's are counters: threads change nothing. */
static void threads(test *t)
{
    om_err err = {0};
    quadratic *q;
    kern k;
    kern_init(&k, 0);
    CHECK_OK(t, quadratic_open(&bowl, &q, &err), err);
    for (size_t i = 0; attacks[i]; i++) {
        sim_config c = config_of(t, q, &k, "geometric_median",
                                 "num_byzantine=4,pre=bucketing", attacks[i]);
        sim_row row;
        double one = miss(t, &c, q, &row);
        CHECK_OK(t, pool_open(3, &c.pool, &err), err);
        CHECK(t, miss(t, &c, q, &row) == one);
        pool_close(c.pool);
    }
    quadratic_close(q);
}

static void refuses(test *t)
{
    om_err err = {0};
    const attack *a;
    quadratic *q;
    sim *s;
    kern k;
    static const float start[DIM] = {0};
    kern_init(&k, 0);
    CHECK(t, attack_need(STR("sign_flop"), &a, &err) == OM_ENOTFOUND);
    CHECK(t, strstr(err.msg, "sign_flip") != NULL);
    CHECK_OK(t, quadratic_open(&bowl, &q, &err), err);
    sim_config c = config_of(t, q, &k, "krum", "num_byzantine=9", NULL);
    CHECK(t, sim_open(&c, start, &s, &err) == OM_EARG); /* Krum needs 2 f + 3 */
    CHECK(t, strstr(err.msg, "at least 21") != NULL);
    quadratic_close(q);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"formulas", "forgeries are what their papers say", formulas},
        {"alie", "published z values", alie},
        {"mimic", "the most unusual honest client is copied", mimic},
        {"chosen", "as many as were asked for are hostile", chosen},
        {"poisons", "labels are reversed, triggers are white corners", poisons},
        {"defended", "with mixing, every attack leaves the optimum near", defended},
        {"byzantine_exact", "the robust methods reach the optimum under every attack",
         byzantine_exact},
        {"threads", "same bits under attack on one and on three threads", threads},
        {"refuses", "unknown attacks and hopeless numbers are refused", refuses},
        {0}};
    return test_main(argc, argv, cases);
}
