/* cmd_simulate.c - a whole federation in one process, from a configuration file; or,
 * with --sweep, one after the other for every combination of some keys' values.
 *
 * Rows go to OUT/results.csv and OUT/results.jsonl as they come, the curve to
 * OUT/curve.svg at the end; OUT/run.sim is a checkpoint from which --resume continues to
 * the same bits. */
#include "cli/cli.h"
#include "cli/plot.h"
#include "cli/federated.h"
#include "cli/problem.h"
#include "cli/ranks.h"
#include "cli/sweep.h"

#include <math.h>
#include <stdio.h>

enum { MOST_PENDING = 1 << 24, PATH_BYTES = 1024 };

typedef struct {
    cli *c;
    config conf;
    problem *problem;
    sim *sim;
    const char *out;     /* folder, or NULL */
    bool silent;         /* another rank writes the results */
    bool resume;
    char states[PATH_BYTES]; /* file of the clients' states, while it runs */
    uint64_t checkpoint; /* rounds between, 0: at the end only */
    buf csv, jsonl;      /* rows not yet written */
    uint64_t flushed_ns;
    sim_row *row;   /* (rounds) for the curve */
    uint64_t first; /* rounds done before this process */
    double seconds; /* in rounds, evaluation apart */
    privacy_rule privacy;
    uint32_t cohort, n_clients;
    double epsilon; /* spent; NAN: not private */
    size_t dim;
    uint64_t plain_bytes; /* what the updates would take as f32 */
} job;

static const char csv_head[] =
    "round,asked,received,train_loss,loss,accuracy,up_bytes,down_bytes,total_up_bytes,"
    "total_down_bytes,seconds,late,stale,simulated_seconds,auc,pauc,ap\n";

/* ---- results ---- */

static om_status path_in(const job *j, const char *name, char path[PATH_BYTES], om_err *err)
{
    om_status s = os_join(path, PATH_BYTES, j->out, name);
    return s == OM_OK ? s : fail(err, s, "'%s' is too long a path", j->out);
}

static om_status append(job *j, const char *name, buf *rows, om_err *err)
{
    char path[PATH_BYTES];
    TRY(path_in(j, name, path, err));
    om_status s = rows->len ? os_append(path, rows->data, rows->len, err) : OM_OK;
    rows->len = 0;
    return s;
}

static om_status flush(job *j, om_err *err)
{
    if (!j->out || j->silent)
        return OM_OK;
    j->flushed_ns = os_now_ns();
    TRY(append(j, "results.csv", &j->csv, err));
    return append(j, "results.jsonl", &j->jsonl, err);
}

static om_status put_csv(buf *b, double v, const char *after)
{
    return isfinite(v) ? buf_fmt(b, "%.9g%s", v, after) : buf_fmt(b, "%s", after);
}

/* Of problems with two classes alone. */
static void put_ranks(json_out *o, const sim_score *s)
{
    if (!isfinite(s->ranks.auc))
        return;
    json_put_f64(o, "auc", s->ranks.auc);
    json_put_f64(o, "pauc", s->ranks.pauc);
    json_put_f64(o, "ap", s->ranks.ap);
}

static om_status put_row(job *j, const sim_row *r)
{
    buf *b = &j->csv;
    TRY(buf_fmt(b, "%u,%u,%u,", (unsigned)r->round, (unsigned)r->asked,
                (unsigned)r->received));
    TRY(put_csv(b, r->train_loss, ","));
    TRY(put_csv(b, r->score.loss, ","));
    TRY(put_csv(b, r->score.accuracy, ","));
    TRY(buf_fmt(b, "%llu,%llu,%llu,%llu,%.6f,%u,%u,%.9g,", (unsigned long long)r->up_bytes,
                (unsigned long long)r->down_bytes, (unsigned long long)r->total_up_bytes,
                (unsigned long long)r->total_down_bytes, r->seconds, (unsigned)r->late,
                (unsigned)r->stale, r->clock));
    TRY(put_csv(b, r->score.ranks.auc, ","));
    TRY(put_csv(b, r->score.ranks.pauc, ","));
    TRY(put_csv(b, r->score.ranks.ap, "\n"));
    json_out o = json_to(&j->jsonl);
    json_open_object(&o, NULL);
    json_put_u64(&o, "round", r->round);
    json_put_u64(&o, "asked", r->asked);
    json_put_u64(&o, "received", r->received);
    json_put_f64(&o, "train_loss", r->train_loss);
    json_put_f64(&o, "loss", r->score.loss);
    json_put_f64(&o, "accuracy", r->score.accuracy);
    if (isfinite(r->slope))
        json_put_f64(&o, "gradient_norm", r->slope);
    json_put_u64(&o, "up_bytes", r->up_bytes);
    json_put_u64(&o, "down_bytes", r->down_bytes);
    json_put_u64(&o, "total_up_bytes", r->total_up_bytes);
    json_put_u64(&o, "total_down_bytes", r->total_down_bytes);
    json_put_f64(&o, "seconds", r->seconds);
    json_put_u64(&o, "late", r->late);
    json_put_u64(&o, "stale", r->stale);
    json_put_f64(&o, "simulated_seconds", r->clock);
    put_ranks(&o, &r->score);
    json_shut(&o, '}');
    return o.status == OM_OK ? buf_u8(&j->jsonl, '\n') : o.status;
}

static om_status record(job *j, const sim_row *r, om_err *err)
{
    j->row[r->round - j->first] = *r;
    j->seconds += r->seconds;
    if (!j->out || j->silent)
        return OM_OK;
    om_status s = put_row(j, r);
    if (s != OM_OK)
        return fail(err, s, "simulate: no memory for the results");
    bool due = os_now_ns() - j->flushed_ns > UINT64_C(1000000000) ||
               j->csv.len + j->jsonl.len > MOST_PENDING / 2;
    return due ? flush(j, err) : OM_OK;
}

/* Rows of rounds from `first` on are written again: drop them from an older file. */
static om_status trim(job *j, const char *name, const char *head, size_t skip, om_err *err)
{
    char path[PATH_BYTES];
    buf old = {0}, kept = buf_growing((size_t)1 << 32);
    TRY(path_in(j, name, path, err));
    om_status s = buf_str(&kept, str_of(head));
    if (j->first && os_exists(path))
        TRY(os_read_file(path, (size_t)1 << 31, &old, err));
    const char *p = (const char *)old.data, *end = p ? p + old.len : NULL;
    while (s == OM_OK && p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = nl ? (size_t)(nl - p) + 1 : (size_t)(end - p), digits = skip;
        uint64_t round;
        while (digits < n && p[digits] >= '0' && p[digits] <= '9')
            digits++;
        if (nl && n > skip && str_u64((str){p + skip, digits - skip}, &round) &&
            round < j->first)
            s = buf_put(&kept, p, n);
        p += n;
    }
    s = s == OM_OK ? os_write_file_atomic(path, kept.data, kept.len, err)
                   : fail(err, s, "simulate: '%s' is too large", path);
    buf_free(&old);
    buf_free(&kept);
    return s;
}

/* ---- the curve ---- */

static om_status write_curve(job *j, om_err *err)
{
    char path[PATH_BYTES];
    size_t n = sim_rounds_done(j->sim) - j->first, m = 0;
    double *x = mem_array(4 * n + 4, sizeof(double)), *train = x + n, *ex = x + 2 * n;
    double *test = x + 3 * n;
    buf svg = buf_growing((size_t)1 << 28);
    if (!x)
        return fail(err, OM_ENOMEM, "simulate: no memory for the curve");
    for (size_t i = 0; i < n; i++) {
        x[i] = (double)j->row[i].round + 1;
        train[i] = j->row[i].train_loss;
        if (isfinite(j->row[i].score.loss)) {
            ex[m] = x[i];
            test[m++] = j->row[i].score.loss;
        }
    }
    plot_series s[2] = {
        {.name = "training loss of the clients", .x = x, .y = train, .n = n},
        {.name = "loss of the model", .x = ex, .y = test, .n = m, .dots = m < 60}};
    plot p = {.title = j->conf.project,
              .x_label = "round",
              .y_label = "loss",
              .series = s,
              .n_series = m ? 2 : 1};
    om_status st = plot_svg(&p, &svg);
    if (st != OM_OK)
        fail(err, st, "simulate: the curve could not be drawn");
    if (st == OM_OK)
        st = path_in(j, "curve.svg", path, err);
    if (st == OM_OK)
        st = os_write_file_atomic(path, svg.data, svg.len, err);
    buf_free(&svg);
    mem_free(x);
    return st;
}

/* ---- the run ---- */

static om_status save(job *j, om_err *err)
{
    char path[PATH_BYTES];
    TRY(path_in(j, "run.sim", path, err));
    return sim_save(j->sim, path, err);
}

static om_status start(job *j, om_err *err)
{
    char path[PATH_BYTES];
    if (!j->out) {
        if (j->resume)
            return fail(err, OM_EARG, "--resume needs the folder of the run: --out DIR");
        return OM_OK;
    }
    TRY(os_mkdirs(j->out, err));
    TRY(path_in(j, "run.sim", path, err));
    if (j->resume) {
        TRY(sim_load(j->sim, path, err));
        j->first = sim_rounds_done(j->sim);
        cli_note(j->c, "resumed after round %llu", (unsigned long long)j->first);
    }
    if (j->silent)
        return OM_OK;
    TRY(trim(j, "results.csv", csv_head, 0, err));
    return trim(j, "results.jsonl", "", strlen("{\"round\":"), err);
}

static om_status rounds(job *j, om_err *err)
{
    uint64_t total = j->conf.rounds;
    om_status s = OM_OK;
    while (s == OM_OK && sim_rounds_done(j->sim) < total) {
        sim_row row;
        s = sim_round(j->sim, &row, err);
        if (s == OM_OK)
            s = record(j, &row, err);
        uint64_t done = sim_rounds_done(j->sim);
        cli_progress(j->c, "simulate", "rounds", done, total);
        if (s == OM_OK && j->out && !j->silent && j->checkpoint && done % j->checkpoint == 0)
            s = save(j, err);
    }
    cli_progress_end(j->c);
    om_status f = flush(j, s == OM_OK ? err : NULL); /* keep the first error */
    return s != OM_OK ? s : f;
}

static om_status simulate(job *j, om_err *err)
{
    j->row = mem_array((size_t)(j->conf.rounds - size_min(j->conf.rounds, j->first)) + 1,
                       sizeof(*j->row));
    if (!j->row)
        return fail(err, OM_ENOMEM, "simulate: no memory for the results");
    TRY(rounds(j, err));
    if (!j->out || j->silent)
        return OM_OK;
    TRY(save(j, err));
    if (j->conf.model.kind == CONFIG_LLM) {
        char dir[PATH_BYTES];
        TRY(path_in(j, "adapter", dir, err));
        TRY(federated_llm_save(j->c, &j->conf, sim_model(j->sim), dir, err));
    }
    return write_curve(j, err);
}

/* ---- the answer ---- */

static void answer_json(job *j, const sim_score *score, const sim_row *last)
{
    uint64_t done = sim_rounds_done(j->sim), n = done - j->first;
    json_out o = json_to(&j->c->out);
    uint8_t sum[32];
    char hex[65];
    sha256(sim_model(j->sim), j->dim * sizeof(float), sum);
    hex_encode(sum, 32, hex);
    json_open_object(&o, NULL);
    json_put_u64(&o, "rounds", done);
    json_put_f64(&o, "loss", score->loss);
    json_put_f64(&o, "accuracy", score->accuracy);
    put_ranks(&o, score);
    json_put_f64(&o, "backdoor", score->backdoor);
    json_put_f64(&o, "epsilon", j->epsilon);
    json_put_f64(&o, "train_loss", last->train_loss);
    json_put_u64(&o, "up_bytes", last->total_up_bytes);
    json_put_u64(&o, "down_bytes", last->total_down_bytes);
    json_put_str(&o, "model_sha256", str_of(hex));
    json_put_f64(&o, "simulated_seconds", last->clock);
    json_put_f64(&o, "rounds_per_second", j->seconds > 0 ? (double)n / j->seconds : 0);
    json_put_u64(&o, "peak_rss_bytes", os_peak_rss_bytes());
    json_shut(&o, '}');
    cli_print(j->c, "\n");
}

static void answer_text(job *j, const sim_score *score, const sim_row *last)
{
    uint64_t done = sim_rounds_done(j->sim), n = done - j->first;
    char up[24], down[24], full[24], took[24];
    cli_print(j->c, "%llu rounds in %s, %.3g rounds/s\n", (unsigned long long)n,
              cli_duration(took, j->seconds), j->seconds > 0 ? (double)n / j->seconds : 0);
    cli_print(j->c, "loss %.6g", score->loss);
    if (isfinite(score->accuracy))
        cli_print(j->c, ", accuracy %.2f %%", 100 * score->accuracy);
    if (isfinite(last->slope))
        cli_print(j->c, ", gradient before the last round %.3g", last->slope);
    if (isfinite(score->ranks.auc))
        cli_print(j->c, ", AUC %.4f (%.4f left of FPR %g), AP %.4f", score->ranks.auc,
                  score->ranks.pauc, SIM_PAUC_BETA, score->ranks.ap);
    if (isfinite(j->epsilon))
        cli_print(j->c, ", epsilon %.4g spent at delta %g", j->epsilon,
                  j->privacy.p[PRIVACY_DELTA]);
    if (isfinite(score->backdoor))
        cli_print(j->c, ", backdoor %.2f %%", 100 * score->backdoor);
    cli_print(j->c, "\nup %s (%s without compression), down %s\n",
              cli_bytes(up, last->total_up_bytes), cli_bytes(full, j->plain_bytes),
              cli_bytes(down, last->total_down_bytes));
    cli_print(j->c, "simulated time %.6g s\n", last->clock);
    if (j->out)
        cli_print(j->c, "results.csv, results.jsonl, curve.svg and run.sim are in %s\n",
                  j->out);
}

static om_status answer(job *j, om_err *err)
{
    uint64_t n = sim_rounds_done(j->sim) - j->first;
    sim_score score;
    TRY(sim_evaluate(j->sim, &score, err));
    if (n == 0) {
        cli_print(j->c,
                  j->c->json ? "{\"rounds\":%llu}\n" : "all %llu rounds are done already\n",
                  (unsigned long long)j->first);
        return OM_OK;
    }
    const sim_row *last = &j->row[n - 1];
    j->epsilon = (double)NAN;
    if (j->privacy.on)
        TRY(privacy_spent(&j->privacy, j->cohort, j->n_clients,
                          sim_rounds_done(j->sim), &j->epsilon, err));
    for (uint64_t i = 0; i < n; i++)
        j->plain_bytes += (uint64_t)j->row[i].received * j->dim * 4;
    if (j->c->json)
        answer_json(j, &score, last);
    else
        answer_text(j, &score, last);
    return OM_OK;
}

/* ---- the command ---- */

/* --set KEY=VALUE over the file. */
static om_status overrides(job *j, om_err *err)
{
    cli *c = j->c;
    for (size_t i = 0; i < cli_count(c, "set"); i++) {
        str one = str_of(cli_nth(c, "set", i));
        const char *eq = memchr(one.p, '=', one.n);
        if (!eq)
            return fail(err, OM_EARG, "--set takes KEY=VALUE, found '%s'", one.p);
        str key = {one.p, (size_t)(eq - one.p)};
        TRY(config_set(&j->conf, key, str_of(eq + 1), err));
    }
    if (cli_given(c, "rounds"))
        TRY(cli_u64(c, "rounds", 1, 1000000000, &j->conf.rounds, err));
    TRY(cli_u64(c, "checkpoint", 0, 1000000000, &j->checkpoint, err));
    if (c->ranks) {
        int how;
        TRY(cli_choice(c, "placement", "static|size", &how, err));
        c->ranks->by_size = how == 1;
        j->silent = c->ranks->rank != 0;
        c->quiet = c->quiet || j->silent;
    }
    j->out = cli_given(c, "out") ? cli_str(c, "out") : j->conf.out[0] ? j->conf.out : NULL;
    return OM_OK;
}

static om_status open_all(job *j, om_err *err)
{
    const config *c = &j->conf;
    double asked = ceil((double)c->cohort.size * c->cohort.over_selection - 1e-9);
    const float *x0;
    sim_config s = {.deadline = c->cohort.deadline_seconds,
                    .pace = c->pace,
                    .cohort = (uint32_t)c->cohort.size,
                    .min = (uint32_t)c->cohort.min,
                    .attack = c->attack,
                    .dropout = c->cohort.dropout,
                    .seed = c->seed,
                    .evaluate_every = (uint32_t)c->evaluate_every,
                    .k = &j->c->kernels,
                    .pool = j->c->pool,
                    .cancel = j->c->cancel,
                    .ranks = j->c->ranks};
    TRY(config_recipe(c, &s.recipe, err));
    TRY(problem_open(c, &j->c->kernels, j->c->pool, j->c->cancel, &j->problem, err));
    problem_describe(j->problem, &s, &x0);
    if (asked > s.n_clients)
        return fail(err, OM_EARG,
                    "cohort.size %llu with cohort.over_selection %g asks %.0f "
                    "clients; there are %u",
                    (unsigned long long)c->cohort.size, c->cohort.over_selection, asked,
                    (unsigned)s.n_clients);
    s.asked = (uint32_t)asked;
    if (s.recipe.privacy.on) {
        privacy_rule *p = &s.recipe.privacy;
        TRY(fl_recipe_private(&s.recipe, s.cohort, s.n_clients, (uint32_t)c->rounds, err));
        cli_note(j->c, "privacy: noise multiplier %.4g for epsilon %g at delta %g",
                 p->p[PRIVACY_NOISE], p->p[PRIVACY_EPSILON], p->p[PRIVACY_DELTA]);
        j->privacy = *p;
        j->cohort = s.cohort, j->n_clients = s.n_clients;
    }
    if (j->out) {
        char name[32] = "clients.state";
        if (j->c->ranks)
            snprintf(name, sizeof(name), "clients.state.%d", j->c->ranks->rank);
        TRY(os_mkdirs(j->out, err));
        TRY(path_in(j, name, j->states, err));
        s.states_path = j->states;
    }
    j->dim = s.dim;
    cli_note(j->c, "%s", problem_summary(j->problem));
    if (c->attack.row)
        cli_note(j->c, "attack %s by %.0f %% of the clients; aggregator %s",
                 c->attack.row->name, 100 * c->attack.p[ATTACK_PART],
                 c->recipe.robust.row->name);
    cli_note(j->c, "%s with %s, %u of %u clients %s", s.recipe.algo->name,
             s.recipe.up->name, (unsigned)s.cohort, (unsigned)s.n_clients,
             s.recipe.algo->async ? "at work" : "a round");
    return sim_open(&s, x0, &j->sim, err);
}

static om_status all(job *j, om_err *err)
{
    TRY(open_all(j, err));
    TRY(start(j, err));
    return simulate(j, err);
}

static void job_close(job *j)
{
    sim_close(j->sim);
    if (j->states[0])
        os_remove(j->states, NULL);
    problem_close(j->problem);
    buf_free(&j->csv);
    buf_free(&j->jsonl);
    mem_free(j->row);
    mem_free(j);
}

/* The configuration, with what the command line says over it. */
static om_status job_open(cli *c, job **out, om_err *err)
{
    job *j = *out = mem_alloc(sizeof(*j));
    if (!j)
        return fail(err, OM_ENOMEM, "simulate: no memory");
    j->c = c;
    j->csv = buf_growing(MOST_PENDING);
    j->jsonl = buf_growing(MOST_PENDING);
    j->resume = cli_flag(c, "resume");
    om_status s = config_read(c->operand[0], &j->conf, err);
    if (s == OM_OK)
        s = overrides(j, err);
    if (s != OM_OK) {
        job_close(j);
        *out = NULL;
    }
    return s;
}

static om_status one(cli *c, om_err *err)
{
    job *j;
    TRY(job_open(c, &j, err));
    om_status s = all(j, err);
    if (s == OM_OK)
        s = answer(j, err);
    job_close(j);
    return s;
}

/* ---- a sweep ---- */

static om_status run_path(const char *out, size_t r, const char *name,
                          char path[PATH_BYTES], om_err *err)
{
    char dir[32], part[PATH_BYTES];
    snprintf(dir, sizeof(dir), "run-%zu", r + 1);
    om_status s = os_join(part, sizeof(part), out, dir);
    if (s == OM_OK)
        s = os_join(path, PATH_BYTES, part, name);
    return s == OM_OK ? s : fail(err, s, "'%s' is too long a path", out);
}

static om_status sweep_one(cli *c, const sweep *w, size_t r, sweep_run *out,
                           om_err *err)
{
    char dir[PATH_BYTES], path[PATH_BYTES];
    job *j;
    TRY(job_open(c, &j, err));
    bool silent = j->silent;
    sweep_name(w, r, out->name);
    cli_note(c, "run %zu of %zu: %s", r + 1, w->n_runs, out->name);
    om_status s = OM_OK;
    for (size_t a = 0; a < w->n_axes && s == OM_OK; a++)
        s = config_set(&j->conf, w->axis[a].key, sweep_value(w, r, a), err);
    if (s == OM_OK)
        s = run_path(j->out, r, "run.sim", path, err);
    if (s == OM_OK)
        s = run_path(j->out, r, "", dir, err);
    j->resume = s == OM_OK && j->resume && os_exists(path);
    j->out = dir;
    if (s == OM_OK)
        s = all(j, err);
    if (s == OM_OK)
        s = sim_evaluate(j->sim, &out->score, err);
    job_close(j);
    if (s != OM_OK)
        return fail_in(err, s, out->name);
    if (silent)
        return OM_OK;
    TRY(run_path(cli_str(c, "out"), r, "results.csv", path, err));
    return sweep_read(path, out, err);
}

static om_status put_file(const char *dir, const char *name, om_status made, buf *b,
                          om_err *err)
{
    char path[PATH_BYTES];
    om_status s = made == OM_OK ? os_join(path, sizeof(path), dir, name) : made;
    s = s == OM_OK ? os_write_file_atomic(path, b->data, b->len, err)
                   : fail(err, s, "simulate: %s cannot be written", name);
    b->len = 0;
    return s;
}

static om_status sweep_files(cli *c, const sweep *w, const sweep_run *runs,
                             om_err *err)
{
    const char *dir = cli_str(c, "out"), *title = c->operand[0];
    buf b = buf_growing((size_t)1 << 30);
    om_status s = put_file(dir, "sweep.csv", sweep_csv(w, runs, &b), &b, err);
    if (s == OM_OK)
        s = put_file(dir, "sweep.jsonl", sweep_jsonl(w, runs, &b), &b, err);
    if (s == OM_OK)
        s = put_file(dir, "report.html", sweep_page(title, w, runs, &b), &b, err);
    buf_free(&b);
    return s;
}

static om_status sweep_answer(cli *c, const sweep *w, const sweep_run *runs, om_err *err)
{
    buf b = buf_growing((size_t)1 << 28);
    om_status s = c->json ? sweep_jsonl(w, runs, &b) : sweep_csv(w, runs, &b);
    if (s != OM_OK)
        fail(err, s, "simulate: no memory for the table");
    else
        cli_write(c, (str){(const char *)b.data, b.len});
    if (s == OM_OK && !c->json)
        cli_print(c, "report.html, sweep.csv, sweep.jsonl and the runs are in %s\n",
                  cli_str(c, "out"));
    buf_free(&b);
    return s;
}

static om_status sweep_all(cli *c, const sweep *w, om_err *err)
{
    if (!cli_given(c, "out"))
        return fail(err, OM_EARG, "--sweep needs a folder for its runs: --out DIR");
    sweep_run *runs = mem_array(w->n_runs, sizeof(*runs));
    if (!runs)
        return fail(err, OM_ENOMEM, "simulate: no memory for %zu runs", w->n_runs);
    om_status s = OM_OK;
    for (size_t r = 0; r < w->n_runs && s == OM_OK; r++)
        s = sweep_one(c, w, r, &runs[r], err);
    bool silent = c->ranks && c->ranks->rank != 0;
    if (s == OM_OK && !silent)
        s = sweep_files(c, w, runs, err);
    if (s == OM_OK)
        s = sweep_answer(c, w, runs, err);
    for (size_t r = 0; r < w->n_runs; r++)
        sweep_run_clear(&runs[r]);
    mem_free(runs);
    return s;
}

static om_status run(cli *c, om_err *err)
{
    sweep w;
    TRY(sweep_parse(c, &w, err));
    return w.n_axes ? sweep_all(c, &w, err) : one(c, err);
}

static const cli_option options[] = {
    {"rounds", 'r', "N", NULL, "rounds, instead of the file's", false},
    {"out", 'o', "DIR", NULL, "folder for results.csv, results.jsonl, curve.svg, run.sim",
     false},
    {"set", 's', "KEY=VALUE", NULL, "one key over the file's, such as algorithm.lr=0.05",
     true},
    {"sweep", 0, "KEY=V1,V2", NULL,
     "a run in DIR/run-N for each value, of every combination when given again; tables and "
     "DIR/report.html",
     true},
    {"checkpoint", 0, "N", "0", "save DIR/run.sim every N rounds; 0: at the end", false},
    {"placement", 0, "HOW", "static",
     "octomil-mpi: clients go to ranks in turn (static) or largest first (size)", false},
    {"resume", 0, NULL, NULL, "continue from DIR/run.sim, to the same bits", false},
    {0}};

const command command_simulate = {
    .name = "simulate",
    .summary = "run a whole federation in this process",
    .operands = "CONFIG",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .details =
        "The same seed gives the same model, bit for bit, for any --threads, and for any\n"
        "number of ranks of octomil-mpi (the same program, where MPI is installed).  States\n"
        "of clients beyond 256 MB are mapped from DIR/clients.state while it runs.\n"
        "    octomil init bowl --kind quadratic && octomil simulate bowl.yaml --out runs\n"
        "    octomil simulate bowl.yaml --sweep algorithm.lr=0.1,0.01 --out rates\n",
    .run = run,
};
