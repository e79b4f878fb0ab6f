/* cmd_plan.c - the memory of a session before it is opened, and what would make it fit.
 *
 * Each remedy is a plan of its own, made by the same rules: a packed cache, a shorter
 * context.  Exit status 0: it fits; 1: it does not. */
#include "cli/cli.h"

#include "llm/experts.h"

#include <stdio.h>

typedef struct {
    cli *c;
    llm_model *m;
    llm_session_args a;
    uint64_t available, experts;
    llm_plan plan;
    llm_plan packed[2]; /* remedies: fewer bits */
} planner;

static const float remedy_bits[] = {4.5f, 3.5f};

static om_status read_args(planner *p, om_err *err)
{
    const cli *c = p->c;
    uint64_t context, batch;
    double bits;
    TRY(cli_u64(c, "context", 0, 1u << 24, &context, err));
    TRY(cli_u64(c, "batch", 1, 1u << 16, &batch, err));
    TRY(cli_f64(c, "cache-bits", 0, 32, &bits, err));
    p->a = (llm_session_args){.context = (uint32_t)context,
                              .batch = (uint32_t)batch,
                              .kv_type = DTYPE_F16,
                              .bits = (float)bits,
                              .k = &c->kernels,
                              .pool = c->pool};
    TRY(cli_size(c, "expert-cache", &p->a.expert_cache, err));
    return cli_size(c, "memory", &p->available, err);
}

/* A remedy that this model's heads are too short for is left out: its bytes stay 0. */
static om_status make_plans(planner *p, om_err *err)
{
    p->experts = experts_bytes(p->m);
    if (p->a.expert_cache && !p->experts)
        return fail(err, OM_EARG, "plan: this model has no experts; leave --expert-cache out");
    TRY(llm_plan_of(p->m, &p->a, p->available, &p->plan, err));
    for (size_t i = 0; i < countof(remedy_bits); i++) {
        llm_session_args a = p->a;
        om_err unfit;
        a.bits = remedy_bits[i];
        if (llm_plan_of(p->m, &a, p->available, &p->packed[i], &unfit) != OM_OK)
            p->packed[i] = (llm_plan){0};
    }
    return OM_OK;
}

static void row(cli *c, const char *what, uint64_t bytes, const char *note)
{
    char size[24];
    cli_print(c, "%-12s %10s  %s\n", what, cli_bytes(size, bytes), note);
}

static uint64_t total(const llm_plan *l)
{
    return l->weights + l->activations + l->tables + l->cache + l->reserve;
}

static void print_plan(const planner *p)
{
    cli *c = p->c;
    const llm_plan *l = &p->plan;
    char note[96];
    row(c, "available", l->available, p->available ? "as given" : "free for us now");
    row(c, "weights", l->weights, "mapped from the file");
    if (l->experts) {
        char size[24];
        snprintf(note, sizeof(note), "of %s of experts, the rest read when wanted",
                 cli_bytes(size, l->experts));
        row(c, "  experts", p->a.expert_cache, note);
    }
    snprintf(note, sizeof(note), "batches of %u tokens", l->batch);
    row(c, "activations", l->activations, note);
    snprintf(note, sizeof(note), "%u tokens, %.2f bits per number", l->context, l->bits);
    row(c, "cache", l->cache, note);
    row(c, "tables", l->tables, "tokens, pages, logits");
    row(c, "reserve", l->reserve, "for the program and the system");
    row(c, "total", total(l), l->fits ? "fits" : "does not fit");
}

static void print_remedies(const planner *p)
{
    cli *c = p->c;
    const llm_plan *l = &p->plan;
    char size[24];
    bool packed = llm_packs(&p->a);
    cli_print(c, "\nlongest context that fits:\n");
    cli_print(c, "  %5.2f bits  %u tokens\n", l->bits, llm_plan_longest(l, packed));
    for (size_t i = 0; i < countof(p->packed); i++) {
        const llm_plan *r = &p->packed[i];
        if (r->packed_bytes && r->bits < l->bits - 0.01)
            cli_print(c, "  %5.2f bits  %u tokens  (--cache-bits %g)\n", r->bits,
                      llm_plan_longest(r, true), (double)remedy_bits[i]);
    }
    if (l->fits)
        return;
    cli_print(c, "\nit would fit with:\n");
    for (size_t i = 0; i < countof(p->packed); i++)
        if (p->packed[i].fits && p->packed[i].bits < l->bits - 0.01)
            cli_print(c, "  --cache-bits %g   a cache of %s\n", (double)remedy_bits[i],
                      cli_bytes(size, p->packed[i].cache));
    uint32_t longest = llm_plan_longest(l, packed);
    if (longest)
        cli_print(c, "  --context %u\n", longest);
    uint64_t rest = total(l) - p->experts, least = experts_least(p->m);
    if (p->experts && !l->experts && rest + least <= l->available)
        cli_print(c, "  --expert-cache %lluM   the other experts are read when wanted\n",
                  (unsigned long long)((l->available - rest) / 1000000));
    cli_print(c, "  %s of memory\n", cli_bytes(size, total(l)));
}

static void json_plan(json_out *o, const llm_plan *l, bool packed)
{
    json_put_u64(o, "context", l->context);
    json_put_f64(o, "bits", l->bits);
    json_put_u64(o, "available", l->available);
    json_put_u64(o, "weights", l->weights);
    json_put_u64(o, "experts", l->experts);
    json_put_u64(o, "activations", l->activations);
    json_put_u64(o, "cache", l->cache);
    json_put_u64(o, "tables", l->tables);
    json_put_u64(o, "reserve", l->reserve);
    json_put_u64(o, "total", total(l));
    json_put_u64(o, "budget", l->budget);
    json_put_u64(o, "longest_context", llm_plan_longest(l, packed));
    json_put_bool(o, "fits", l->fits);
}

static void print_json(const planner *p)
{
    json_out o = json_to(&p->c->out);
    json_open_object(&o, NULL);
    json_plan(&o, &p->plan, llm_packs(&p->a));
    json_open_array(&o, "packed");
    for (size_t i = 0; i < countof(p->packed); i++)
        if (p->packed[i].packed_bytes) {
            json_open_object(&o, NULL);
            json_plan(&o, &p->packed[i], true);
            json_shut(&o, '}');
        }
    json_shut(&o, ']');
    json_shut(&o, '}');
    cli_print(p->c, "\n");
}

static om_status run(cli *c, om_err *err)
{
    planner p = {.c = c};
    TRY(read_args(&p, err));
    TRY(llm_open(c->operand[0], &p.m, err));
    om_status s = make_plans(&p, err);
    if (s == OM_OK) {
        if (c->json) {
            print_json(&p);
        } else {
            print_plan(&p);
            print_remedies(&p);
        }
        cli_flush(c);
        if (!p.plan.fits)
            s = fail(err, OM_ELIMIT, "plan: %s does not fit with a context of %u tokens",
                     c->operand[0], p.plan.context);
    }
    llm_close(p.m);
    return s;
}

static const cli_option options[] = {
    {"context", 0, "N", "0", "tokens the session can hold; 0: the model's, at most 4096",
     false},
    {"batch", 0, "N", "256", "prompt tokens computed at once", false},
    {"cache-bits", 0, "BITS", "16", "most bits per number of the older cache, such as 4.5",
     false},
    {"expert-cache", 0, "SIZE", NULL,
     "memory for a mixture's experts, the others being read when wanted", false},
    {"memory", 0, "SIZE", NULL, "plan for so much free memory, such as 800M or 4G", false},
    {0},
};

const command command_plan = {
    .name = "plan",
    .summary = "show the memory a model will take, and what would make it fit",
    .operands = "MODEL",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .run = run,
    .details = "Nothing is loaded.  Exit status 0: it fits; 1: it does not.\n",
};
