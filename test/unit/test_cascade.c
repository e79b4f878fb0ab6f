/* test_cascade.c - cascades: votes, costs, thresholds against brute force. */
#include "llm/cascade.h"
#include "test.h"

enum { COUNT = 300, TIERS = 3 };

typedef struct {
    cascade_data d;
    cascade_reply reply[TIERS][COUNT];
    int32_t target[COUNT];
} made;

/* Tier t is right with a probability that grows with t and with its score. */
static void make(made *m, uint64_t seed)
{
    rng r = rng_for(seed, 0, 0, 1);
    static const double cost[TIERS] = {1, 4, 20};
    *m = (made){.d = {.n = TIERS, .count = COUNT, .target = m->target}};
    memcpy(m->d.cost, cost, sizeof(cost));
    for (uint32_t t = 0; t < TIERS; t++) {
        m->d.reply[t] = m->reply[t];
        for (int i = 0; i < COUNT; i++) {
            double p = rng_unit(&r);
            bool right = rng_unit(&r) < p * (0.6 + 0.2 * t) + 0.2 * t;
            m->reply[t][i] = (cascade_reply){right ? 0 : 1, {1, p, p, p, 1 - p}, p};
        }
    }
}

static void votes(test *t)
{
    cascade_guess a[] = {{5, 0.9f, 0.1f, 1}}, b[] = {{7, 0.4f, 0.3f, 2}};
    cascade_guess c[] = {{7, 0.3f, 0.2f, 3}};
    const cascade_guess *three[] = {a, b, c}, *two[] = {b, a};
    cascade_reply r;
    cascade_vote(three, 3, 0, &r);
    CHECK_INT(t, r.answer, 7);
    CHECK_NEAR(t, r.score, 2.0 / 3, 1e-12);
    cascade_vote(two, 2, 0, &r); /* one vote each: the likelier */
    CHECK_INT(t, r.answer, 5);
    CHECK_NEAR(t, r.score, 0.5, 1e-12);
    cascade_vote(two, 1, 0, &r);
    CHECK_INT(t, r.answer, 7);
    CHECK_NEAR(t, r.score, 0.4, 1e-7);
    CHECK_NEAR(t, r.feature[3], 0.1, 1e-6);
}

/* Thresholds of 0: the first tier alone; above 1: all are paid, the last answers; and no
 * cascade costs more than all tiers. */
static void ends(test *t)
{
    made m;
    cascade_result r;
    make(&m, 1);
    cascade_run(&m.d, (double[]){0, 0}, &r);
    CHECK(t, r.cost == 1 && r.answered[0] == 1);
    cascade_run(&m.d, (double[]){1.01, 1.01}, &r);
    CHECK(t, r.cost == 25 && r.answered[2] == 1);
    for (int i = 0; i < 20; i++) {
        cascade_run(&m.d, (double[]){i / 20.0, 1 - i / 20.0}, &r);
        CHECK(t, r.cost >= 1 && r.cost <= 25);
        CHECK_NEAR(t, r.answered[0] + r.answered[1] + r.answered[2], 1, 1e-12);
    }
}

/* Each tier's threshold keeps its bound and is the lowest that does. */
static void agreement(test *t)
{
    for (uint64_t seed = 1; seed < 6; seed++) {
        made m;
        double th[TIERS], epsilon = 0.02;
        om_err err = {0};
        bool gone[COUNT] = {false};
        make(&m, seed);
        CHECK_OK(t, cascade_agree(&m.d, epsilon, th, &err), err);
        for (int tier = 0; tier < TIERS - 1; tier++) {
            double lowest = HUGE_VAL;
            for (int k = 0; k < COUNT; k++) { /* brute force over all scores */
                double at = m.reply[tier][k].score, excess = 0, n = 0;
                for (int i = 0; i < COUNT; i++) {
                    if (gone[i] || m.reply[tier][i].score < at)
                        continue;
                    n++;
                    excess += (m.reply[tier][i].answer != 0) -
                              (m.reply[TIERS - 1][i].answer != 0);
                }
                if (!gone[k] && excess <= epsilon * n && at < lowest)
                    lowest = at;
            }
            CHECK(t, th[tier] == lowest || (th[tier] > 1e300 && lowest > 1e300));
            for (int i = 0; i < COUNT; i++)
                gone[i] |= m.reply[tier][i].score >= th[tier];
        }
    }
}

/* A budget is kept and more budget is never worse; without one the last tier's quality is
 * kept for less. */
static void search(test *t)
{
    made m;
    om_err err = {0};
    cascade_result r, last;
    double th[TIERS], before = 0;
    make(&m, 3);
    cascade_run(&m.d, (double[]){2, 2}, &last);
    for (double budget = 1; budget <= 25; budget += 2) {
        CHECK_OK(t, cascade_search(&m.d, budget, 0, th, &err), err);
        cascade_run(&m.d, th, &r);
        CHECK(t, r.cost <= budget && r.accuracy >= before);
        before = r.accuracy;
    }
    CHECK_OK(t, cascade_search(&m.d, 0, 0, th, &err), err);
    cascade_run(&m.d, th, &r);
    CHECK(t, r.accuracy >= last.accuracy && r.cost < last.cost);
}

/* The learned score orders answers as their chance of being right does. */
static void learned(test *t)
{
    made m;
    double w[CASCADE_TIERS][CASCADE_FEATURES];
    make(&m, 4);
    cascade_fit(&m.d, w);
    cascade_score(&m.d, w);
    for (uint32_t tier = 0; tier < TIERS; tier++) {
        double mean = 0, right = 0;
        for (int i = 0; i < COUNT; i++) {
            const cascade_reply *x = &m.reply[tier][i];
            mean += x->score / COUNT;
            right += (double)(x->answer == 0) / COUNT;
            CHECK(t, x->score > 0 && x->score < 1);
            for (int k = 0; k < i; k += 37)
                CHECK(t, (x->score > m.reply[tier][k].score) ==
                             (x->feature[1] > m.reply[tier][k].feature[1]) ||
                         fabs(x->score - m.reply[tier][k].score) < 1e-9);
        }
        CHECK_NEAR(t, mean, right, 0.02); /* a fit with an intercept is right on average */
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"votes", "majorities, ties, single models", votes},
        {"ends", "thresholds of zero and above one", ends},
        {"agreement", "the lowest thresholds that keep the bound", agreement},
        {"search", "budgets and equal quality", search},
        {"learned", "scores are chances", learned},
        {0}};
    return test_main(argc, argv, cases);
}
