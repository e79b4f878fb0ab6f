/* cmd_privacy.c - what a run costs in differential privacy, without running it: two of
 * noise, rounds and epsilon give the third. */
#include "cli/cli.h"
#include "fl/privacy/accountant.h"

#include <math.h>

typedef struct {
    double rate, noise, epsilon, delta;
    uint64_t rounds;
    double pld, rdp, order; /* of the plan */
} plan;

static om_status read_plan(cli *c, plan *p, om_err *err)
{
    bool noise = cli_given(c, "noise"), rounds = cli_given(c, "rounds");
    bool epsilon = cli_given(c, "epsilon");
    if (noise + rounds + epsilon != 2)
        return fail(err, OM_EARG,
                    "give two of --noise, --rounds and --epsilon; the third is the answer");
    TRY(cli_f64(c, "rate", 1e-9, 1, &p->rate, err));
    TRY(cli_f64(c, "delta", 1e-15, 0.5, &p->delta, err));
    if (noise)
        TRY(cli_f64(c, "noise", 0.05, 1e6, &p->noise, err));
    if (rounds)
        TRY(cli_u64(c, "rounds", 1, 100000000, &p->rounds, err));
    if (epsilon)
        TRY(cli_f64(c, "epsilon", 1e-6, 1e4, &p->epsilon, err));
    return OM_OK;
}

static om_status solve(plan *p, om_err *err)
{
    uint32_t rounds = (uint32_t)p->rounds;
    if (p->noise <= 0)
        TRY(privacy_noise_for(p->rate, rounds, p->epsilon, p->delta, &p->noise, err));
    if (p->rounds == 0) {
        TRY(privacy_rounds_for(p->rate, p->noise, p->epsilon, p->delta, 1u << 20, &rounds,
                               err));
        p->rounds = rounds;
    }
    TRY(pld_epsilon(p->rate, p->noise, rounds, p->delta, &p->pld, err));
    p->rdp = rdp_epsilon(p->rate, p->noise, rounds, p->delta, &p->order);
    return OM_OK;
}

static void answer(cli *c, const plan *p)
{
    if (c->json) {
        json_out o = json_to(&c->out);
        json_open_object(&o, NULL);
        json_put_f64(&o, "epsilon", p->pld);
        json_put_f64(&o, "epsilon_rdp", p->rdp);
        json_put_f64(&o, "delta", p->delta);
        json_put_f64(&o, "noise_multiplier", p->noise);
        json_put_f64(&o, "rate", p->rate);
        json_put_u64(&o, "rounds", p->rounds);
        json_shut(&o, '}');
        cli_print(c, "\n");
        return;
    }
    cli_print(c, "epsilon %.6g at delta %g (by Renyi divergence: %.6g, order %g)\n", p->pld,
              p->delta, p->rdp, p->order);
    cli_print(c, "noise_multiplier %.6g, rate %g, %llu rounds\n", p->noise, p->rate,
              (unsigned long long)p->rounds);
}

static om_status run(cli *c, om_err *err)
{
    plan p = {0};
    TRY(read_plan(c, &p, err));
    TRY(solve(&p, err));
    answer(c, &p);
    return OM_OK;
}

static const cli_option options[] = {
    {"rate", 'q', "Q", "1", "chance that a client takes part in a round; 1: always", false},
    {"rounds", 'r', "N", NULL, "rounds of the run", false},
    {"noise", 'z', "Z", NULL, "noise multiplier: deviation over clipping length", false},
    {"epsilon", 'e', "E", NULL, "budget", false},
    {"delta", 'd', "D", "1e-5", "chance left to a breach; below 1 / clients", false},
    {0}};

const command command_privacy = {
    .name = "privacy",
    .summary = "epsilon for a noise and a number of rounds, or the noise for an epsilon",
    .operands = "",
    .options = options,
    .details =
        "Clients join a round by their own coins (Poisson sampling) with chance --rate; the\n"
        "sum of their clipped updates gets Gaussian noise.  Adjacent data sets differ by one\n"
        "client.  The answer is by privacy loss distributions, tight to the digits shown.\n\n"
        "  octomil privacy --rate 0.01 --rounds 1000 --noise 1.0\n"
        "  octomil privacy --rate 0.01 --rounds 1000 --epsilon 2 --json\n",
    .run = run,
};
