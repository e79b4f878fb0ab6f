/* spec_control.c - when to guess, and how many tokens.
 *
 * With guesses right with probability a, one after the other, a forward of n guesses gives
 *
 *     E(n) = 1 + a + .. + a^n = (1 - a^(n+1)) / (1 - a)       tokens (Leviathan et al. 2023)
 *
 * for cost[n] + n guess_cost, where a plain token costs cost[0]: the length with the largest
 * ratio is taken, if it promises more than MARGIN.  Both sides are measured while it runs;
 * a length that was not tried yet is put on the line through its neighbour.
 *
 * BOUNDED.  A forward with guesses must be paid for, as if all of them were wrong, out of a
 * credit: at first START plain tokens' worth, then SHARE of every token, then what right
 * guesses saved, up to CREDIT_MOST.  So over N tokens of which none was guessed the loss is
 * below START + SHARE N plain tokens, whatever the estimates say (for a
 * row costs no more than a forward).  The same credit pays for
 * looking again: without a promise one token is guessed when the credit is twice its price,
 * which is how a text that begins to repeat itself is found out.  After REFRESH forwards
 * with guesses one goes without: prices are in plain tokens, and the machine changes. */
#include "llm/speculate.h"

#define START 1.5
#define SHARE 0.015
#define CREDIT_MOST 12.0
#define MARGIN 1.04
#define KEEP 0.96        /* of a count, per guess counted: the last 25 matter */
#define REFRESH 48
#define UNSEEN_SLOPE 0.3 /* cost of a row beside the first, in firsts, until it is known */

static const uint32_t length_of[SPEC_LENGTHS] = {0, 1, 3, 7, 15};

uint32_t spec_length(uint32_t i) { return length_of[i]; }

void spec_control_init(spec_control *c)
{
    *c = (spec_control){.credit = START};
    for (uint32_t i = 0; i < SPEC_CLASSES; i++) {
        c->right[i] = 1; /* one right in two: to be corrected by the first guesses */
        c->tried[i] = 2;
    }
}

static uint32_t index_of(uint32_t n)
{
    uint32_t i = SPEC_LENGTHS - 1;
    while (length_of[i] > n)
        i--;
    return i;
}

/* The first forward of a length also pays for its plan. */
static bool known(const spec_control *c, uint32_t i) { return c->seen[i] > 1; }

/* Cost of a forward with length i in plain tokens, guesses included. */
static double price(const spec_control *c, uint32_t i)
{
    double plain = c->cost[0], rows = length_of[i], slope = UNSEEN_SLOPE * plain;
    double guesses = rows * c->guess_cost, cost = c->cost[i];
    for (uint32_t j = i; !known(c, i) && j > 0; j--)
        if (known(c, j)) {
            slope = (c->cost[j] - plain) / length_of[j];
            break;
        }
    if (!known(c, i))
        cost = plain + (slope > 0 ? slope : 0) * rows;
    if (cost > plain * (1 + rows)) /* a hiccup: rows never cost more than forwards */
        cost = plain * (1 + rows);
    return (cost + guesses) / plain;
}

/* Tokens expected of n guesses. */
static double expected(double a, uint32_t n)
{
    double sum = 1, power = 1;
    for (uint32_t i = 0; i < n; i++) {
        power *= a;
        sum += power;
    }
    return sum;
}

uint32_t spec_choose(const spec_control *c, uint32_t k, uint32_t most, double *gain)
{
    double a = c->right[k] / c->tried[k];
    uint32_t best = 0;
    *gain = 1;
    if (!known(c, 0) || c->since >= REFRESH) /* nothing to compare with */
        return 0;
    for (uint32_t i = 1; i < SPEC_LENGTHS && length_of[i] <= most; i++) {
        double p = price(c, i), g = expected(a, length_of[i]) / p;
        if (p - 1 > c->credit)
            break;
        if (g > MARGIN && g > *gain) {
            best = length_of[i];
            *gain = g;
        }
    }
    if (best == 0 && most > 0 && 2 * (price(c, 1) - 1) <= c->credit)
        return 1;
    return best;
}

/* Machines hiccup: one cost moves the estimate by a part of itself at most. */
static void learn(double *estimate, uint32_t *seen, double x)
{
    if (*seen <= 1 || (*seen < 4 && x < *estimate))
        *estimate = x;
    else if (x > 2 * *estimate)
        *estimate *= 1.1;
    else
        *estimate += 0.1 * (x - *estimate);
    *seen += *seen < UINT32_MAX;
}

static void earn(spec_control *c, double tokens)
{
    c->credit = c->credit + tokens < CREDIT_MOST ? c->credit + tokens : CREDIT_MOST;
}

void spec_paid(spec_control *c, uint32_t n, double cost, double guessing)
{
    uint32_t i = index_of(n);
    learn(&c->cost[i], &c->seen[i], cost);
    c->since = n > 0 ? c->since + 1 : 0;
    if (n > 0)
        c->guess_cost += (guessing / n - c->guess_cost) * (c->guess_cost > 0 ? 0.2 : 1);
    double p = n > 0 ? price(c, i) : 1; /* by the estimate: a hiccup is nobody's fault */
    c->credit -= p - 1;
    earn(c, SHARE);
    c->tokens += 1;
    c->spent += p;
}

void spec_came_true(spec_control *c, uint32_t k, uint32_t n, uint32_t right)
{
    uint32_t judged = right < n ? right + 1 : n; /* behind a wrong one nothing is known */
    for (uint32_t i = 0; i < judged; i++) {
        c->tried[k] = KEEP * c->tried[k] + 1;
        c->right[k] = KEEP * c->right[k] + (i < right ? 1 : 0);
    }
    earn(c, right);
    c->tokens += right;
}
