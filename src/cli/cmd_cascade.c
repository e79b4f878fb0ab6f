/* cmd_cascade.c - a cascade of models: thresholds from one text, cost and quality on
 * another, and the curve between them as a picture. */
#include "cli/cli.h"

#include "cli/plot.h"
#include "cli/text_data.h"
#include "llm/cascade.h"
#include "llm/speculate.h"

#include <math.h>
#include <stdio.h>

enum { MODELS = 12, POINTS = 41, SERIES = CASCADE_TIERS + 1 };
enum { AGREE, LEARNED };

typedef struct {
    cli *c;
    llm_model *model[MODELS];
    const char *name[CASCADE_TIERS];
    uint32_t tier_of[MODELS], n_models, n_tiers;
    uint64_t window, most;
    double epsilon, budget, cost[CASCADE_TIERS];
    int rule;
    cascade_data calibration, test;
    int32_t *targets[2];
    double weight[CASCADE_TIERS][CASCADE_FEATURES], threshold[CASCADE_TIERS];
    cascade_result result, alone[CASCADE_TIERS];
    double x[POINTS], y[POINTS];
} job;

/* ---- tiers ------------------------------------------------------------------------- */

/* Numbers multiplied per token: matrices but the embedding, which is only looked up. */
static double work_of(const llm_model *m)
{
    double sum = 0;
    for (uint32_t i = 0; i < m->n_weight; i++) {
        const nn_weight *w = &m->weight[i];
        if (w->rows > 1 && (w != m->embed || m->output == m->embed))
            sum += (double)w->rows * w->cols;
    }
    return sum;
}

static om_status open_tier(job *j, const char *list, om_err *err)
{
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        char path[4096];
        if (j->n_models == MODELS || n >= sizeof(path))
            return fail(err, OM_ELIMIT, "cascade: at most %d models with short names", MODELS);
        snprintf(path, sizeof(path), "%.*s", (int)n, p);
        llm_model **m = &j->model[j->n_models];
        TRY(llm_open(path, m, err));
        j->tier_of[j->n_models++] = j->n_tiers;
        j->cost[j->n_tiers] += work_of(*m);
        if (*m != j->model[0] && !spec_same_vocabulary(*m, j->model[0]))
            return fail(err, OM_EARG, "'%s' has another vocabulary than '%s'; answers are "
                                      "tokens, so all tiers need the same", path, list);
        p += n + (p[n] == ',');
    }
    j->name[j->n_tiers++] = list;
    return OM_OK;
}

static om_status read_costs(job *j, om_err *err)
{
    const char *p = cli_str(j->c, "costs");
    for (uint32_t t = 0; p && t < j->n_tiers; t++) {
        size_t n = strcspn(p, ",");
        if (!str_f64((str){p, n}, &j->cost[t]) || !(j->cost[t] > 0))
            return fail(err, OM_EARG, "--costs takes %u positive numbers, one a tier, such as "
                                      "1,10", j->n_tiers);
        p += n + (p[n] == ',');
    }
    return OM_OK;
}

/* ---- data -------------------------------------------------------------------------- */

static om_status ask(job *j, const char *path, cascade_data *d, int32_t **target, om_err *err)
{
    cascade_guess *guess[MODELS] = {NULL};
    token_text text = {0};
    om_status s = token_text_read(j->model[0], path, &text, err);
    if (s == OM_OK && j->most && text.n > j->most)
        text.n = (size_t)j->most;
    for (uint32_t i = 0; s == OM_OK && i < j->n_models; i++) {
        int32_t *t;
        s = cascade_guesses(j->model[i], &j->c->kernels, j->c->pool, text.ids, text.n,
                            (uint32_t)j->window, j->c->cancel, &guess[i], &t, &d->count, err);
        cli_progress(j->c, "asking", "models", i + 1, j->n_models);
        if (*target)
            mem_free(t);
        else
            *target = t;
    }
    cli_progress_end(j->c);
    d->n = j->n_tiers;
    d->target = *target;
    memcpy(d->cost, j->cost, sizeof(d->cost));
    for (uint32_t t = 0; s == OM_OK && t < d->n; t++) {
        const cascade_guess *of[MODELS];
        uint32_t n = 0;
        for (uint32_t i = 0; i < j->n_models; i++)
            if (j->tier_of[i] == t)
                of[n++] = guess[i];
        d->reply[t] = mem_array(d->count, sizeof(cascade_reply));
        if (!d->reply[t])
            s = fail(err, OM_ENOMEM, "cascade: no memory for %zu replies", d->count);
        for (size_t i = 0; s == OM_OK && i < d->count; i++)
            cascade_vote(of, n, i, &d->reply[t][i]);
    }
    for (uint32_t i = 0; i < j->n_models; i++)
        mem_free(guess[i]);
    token_text_free(&text);
    return s;
}

/* ---- calibration and result -------------------------------------------------------- */

static double last_cost(const job *j) { return j->cost[j->n_tiers - 1]; }

static om_status calibrate(job *j, om_err *err)
{
    const cascade_data *d = &j->calibration;
    if (j->rule == LEARNED) {
        cascade_fit(d, j->weight);
        cascade_score(d, j->weight);
        cascade_score(&j->test, j->weight);
    }
    if (j->rule == LEARNED || j->budget > 0)
        return cascade_search(d, j->budget * last_cost(j), j->epsilon, j->threshold, err);
    return cascade_agree(d, j->epsilon, j->threshold, err);
}

/* Tier t alone, for what it costs by itself. */
static void alone(job *j, uint32_t t)
{
    cascade_data d = {.n = 1, .count = j->test.count, .target = j->test.target};
    d.reply[0] = j->test.reply[t];
    d.cost[0] = j->cost[t];
    cascade_run(&d, NULL, &j->alone[t]);
}

/* The curve: budgets from the first tier's cost up, thresholds from the calibration text,
 * cost and accuracy on the other. */
static om_status trace(job *j, om_err *err)
{
    double all = 0, threshold[CASCADE_TIERS];
    for (uint32_t t = 0; t < j->n_tiers; t++)
        all += j->cost[t];
    for (int i = 0; i < POINTS; i++) {
        cascade_result r;
        double budget = j->cost[0] + (all - j->cost[0]) * i / (POINTS - 1);
        TRY(cascade_search(&j->calibration, budget * (1 + 1e-9), 0, threshold, err));
        cascade_run(&j->test, threshold, &r);
        j->x[i] = r.cost / last_cost(j);
        j->y[i] = 100 * r.accuracy;
    }
    return OM_OK;
}

static om_status draw(job *j, const char *path, om_err *err)
{
    plot_series s[SERIES];
    double x[CASCADE_TIERS], y[CASCADE_TIERS];
    char names[CASCADE_TIERS][24];
    s[0] = (plot_series){"cascade", j->x, j->y, POINTS, true};
    for (uint32_t t = 0; t < j->n_tiers; t++) {
        x[t] = j->cost[t] / last_cost(j);
        y[t] = 100 * j->alone[t].accuracy;
        snprintf(names[t], sizeof(names[t]), "tier %u alone", t + 1);
        s[t + 1] = (plot_series){names[t], &x[t], &y[t], 1, true};
    }
    plot p = {.title = "quality against cost", .x_label = "cost, of the last tier's",
              .y_label = "right answers, %", .series = s, .n_series = j->n_tiers + 1};
    buf svg = buf_growing(1 << 20);
    om_status st = plot_svg(&p, &svg);
    st = st == OM_OK ? os_write_file_atomic(path, svg.data, svg.len, err)
                     : fail(err, st, "cascade: the picture would be over 1 MB");
    buf_free(&svg);
    return st;
}

static void answer_json(const job *j)
{
    const cascade_result *r = &j->result;
    json_out o = json_to(&j->c->out);
    json_open_object(&o, NULL);
    json_put_str(&o, "rule", j->rule == LEARNED ? STR("learned") : STR("agree"));
    json_put_u64(&o, "tokens", j->test.count);
    json_put_f64(&o, "accuracy", r->accuracy);
    json_put_f64(&o, "cost", r->cost / last_cost(j));
    json_put_f64(&o, "last_accuracy", j->alone[j->n_tiers - 1].accuracy);
    json_open_array(&o, "tiers");
    for (uint32_t t = 0; t < j->n_tiers; t++) {
        json_open_object(&o, NULL);
        json_put_str(&o, "models", str_of(j->name[t]));
        json_put_f64(&o, "cost", j->cost[t]);
        json_put_f64(&o, "accuracy", j->alone[t].accuracy);
        json_put_f64(&o, "answered", r->answered[t]);
        if (t + 1 < j->n_tiers && isfinite(j->threshold[t]))
            json_put_f64(&o, "threshold", j->threshold[t]);
        json_shut(&o, '}');
    }
    json_shut(&o, ']');
    json_shut(&o, '}');
    cli_print(j->c, "\n");
}

static void answer(const job *j)
{
    cli *c = j->c;
    const cascade_result *r = &j->result;
    cli_print(c, "%-4s %-36s %8s %8s %9s %10s\n", "tier", "models", "cost", "right", "answers",
              "threshold");
    for (uint32_t t = 0; t < j->n_tiers; t++) {
        cli_print(c, "%-4u %-36.36s %7.1f%% %7.2f%% %8.2f%%", t + 1, j->name[t],
                  100 * j->cost[t] / last_cost(j), 100 * j->alone[t].accuracy,
                  100 * r->answered[t]);
        if (t + 1 == j->n_tiers)
            cli_print(c, " %10s\n", "-");
        else if (isfinite(j->threshold[t]))
            cli_print(c, " %10.4f\n", j->threshold[t]);
        else
            cli_print(c, " %10s\n", "never");
    }
    cli_print(c, "cascade: %.2f%% right for %.1f%% of the last tier's cost, over %zu tokens\n",
              100 * r->accuracy, 100 * r->cost / last_cost(j), j->test.count);
}

static om_status work(job *j, om_err *err)
{
    cli *c = j->c;
    const char *text = cli_str(c, "text"), *calibration = cli_str(c, "calibrate");
    TRY(cli_u64(c, "context", 2, 1u << 20, &j->window, err));
    TRY(cli_u64(c, "max-tokens", 0, UINT64_MAX, &j->most, err));
    TRY(cli_f64(c, "epsilon", -1, 1, &j->epsilon, err));
    TRY(cli_f64(c, "budget", 0, 1000, &j->budget, err));
    TRY(cli_choice(c, "rule", "agree|learned", &j->rule, err));
    if (!text || !calibration)
        return fail(err, OM_EARG, "--calibrate FILE and --text FILE are needed: the text that "
                                  "sets the thresholds, and the one that measures them");
    if (c->n_operands > CASCADE_TIERS)
        return fail(err, OM_EARG, "cascade: at most %d tiers", CASCADE_TIERS);
    for (int i = 0; i < c->n_operands; i++)
        TRY(open_tier(j, c->operand[i], err));
    TRY(read_costs(j, err));
    TRY(ask(j, calibration, &j->calibration, &j->targets[0], err));
    TRY(ask(j, text, &j->test, &j->targets[1], err));
    TRY(calibrate(j, err));
    cascade_run(&j->test, j->threshold, &j->result);
    for (uint32_t t = 0; t < j->n_tiers; t++)
        alone(j, t);
    if (cli_given(c, "plot")) {
        TRY(trace(j, err));
        TRY(draw(j, cli_str(c, "plot"), err));
    }
    if (c->json)
        answer_json(j);
    else
        answer(j);
    return OM_OK;
}

static om_status run(cli *c, om_err *err)
{
    job *j = mem_alloc(sizeof(*j));
    if (!j)
        return fail(err, OM_ENOMEM, "cascade: no memory");
    j->c = c;
    om_status s = work(j, err);
    for (uint32_t i = 0; i < MODELS; i++)
        llm_close(j->model[i]);
    for (uint32_t t = 0; t < CASCADE_TIERS; t++) {
        mem_free(j->calibration.reply[t]);
        mem_free(j->test.reply[t]);
    }
    mem_free(j->targets[0]);
    mem_free(j->targets[1]);
    mem_free(j);
    return s;
}

static const cli_option options[] = {
    {"calibrate", 0, "FILE", NULL, "the text that sets the thresholds (needed)", false},
    {"text", 'f', "FILE", NULL, "the text that is predicted (needed)", false},
    {"rule", 0, "RULE", "agree",
     "when a tier answers: its models agree, or a learned score is high: agree, learned",
     false},
    {"epsilon", 0, "E", "0", "errors over the last tier's that are allowed, of answers", false},
    {"budget", 0, "PART", "0",
     "mean cost, of the last tier's: the most right answers for it; 0: the least cost for "
     "the last tier's quality",
     false},
    {"costs", 0, "LIST", NULL, "of asking each tier (default: its multiplications a token)",
     false},
    {"context", 'c', "N", "128", "tokens seen at once", false},
    {"max-tokens", 'n', "N", "0", "only the first N tokens of each text; 0: all", false},
    {"plot", 0, "FILE.svg", NULL, "draw right answers against cost", false},
    {0},
};

const command command_cascade = {
    .name = "cascade",
    .summary = "small models answer where they suffice, larger ones the rest",
    .operands = "TIER TIER...",
    .min_operands = 2,
    .max_operands = CASCADE_TIERS,
    .options = options,
    .run = run,
    .details =
        "A TIER is a model, or several with commas between that vote.  Tiers are asked in\n"
        "turn until one is sure enough; the last always answers.  What is asked is the next\n"
        "token of a text, so all models need the same vocabulary.  Thresholds come from the\n"
        "--calibrate text, what is reported from the --text.\n\n"
        "  octomil cascade small.gguf big.gguf --calibrate notes.txt --text story.txt\n"
        "  octomil cascade small.gguf,base.gguf big.gguf --calibrate notes.txt --text story.txt "
        "--plot curve.svg\n",
};
