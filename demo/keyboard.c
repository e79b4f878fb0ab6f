/* keyboard.c - writes the demo's texts: what people type on a phone keyboard.
 *
 *     keyboard-text FIRST LAST LINES DIR [SEED]
 *
 * writes DIR/user-NNNN.txt and DIR/user-NNNN.heldout.txt (a tenth as many lines) for
 * every user in [FIRST, LAST).  Nothing is taken from anywhere: names, places and habits
 * are in the tables below, messages come from templates.
 *
 * Each user has friends, a home town's places, a job, food, sports, a way to greet, to
 * sign off and to tell the time, drawn once from the user's number; most words of a
 * message are then predictable to someone who knows the user, and to nobody else.  That
 * is what a federation can learn without reading anybody's messages: a natural split.
 *
 * Users from number 1000 live in another town: their names, places, food, sports and jobs
 * come from the other half of the tables.  The shipped model has met users below 1000 only,
 * so the demo's devices teach it a town it hardly knows. */
#include "base/base.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const names[] = {
    "mara", "ben", "lucia", "tomas", "aisha", "viktor", "noor", "emil", "jonas", "priya",
    "carla", "diego", "hanna", "igor", "june", "kofi", "lena", "miles", "nadia", "oscar",
    "petra", "quinn", "rosa", "samir", "tess", "umar", "vera", "wanda", "xavi", "yusuf",
    "zoe", "anton", "bella", "cyrus", "dora", "elias", "freya", "gus", "heidi", "ivan"};
static const char *const places[] = {
    "harbour cafe", "north station", "old library", "river market", "hill park",
    "blue bakery", "corner gym", "city pool", "garden bar", "east bridge", "opera steps",
    "book shop", "tram stop", "school gate", "west pier", "museum door", "noodle house",
    "climbing hall", "green clinic", "fire tower", "lake shore", "farm stand", "bus depot",
    "tea room"};
static const char *const foods[] = {"soup", "dumplings", "pizza", "curry", "salad", "tacos",
                                    "noodles", "pancakes", "falafel", "sushi", "stew", "pie"};
static const char *const sports[] = {"running", "climbing", "swimming", "chess", "tennis",
                                     "yoga", "rowing", "cycling", "dancing", "football"};
static const char *const jobs[] = {"report", "budget", "lesson", "design", "shift", "review",
                                   "invoice", "rehearsal", "garden plan", "translation"};
static const char *const greets[] = {"hey", "hi", "hello", "yo", "good morning", "dear"};
static const char *const ends[] = {"see you", "take care", "thanks so much", "cheers",
                                   "love you", "talk soon", "bye for now", "hugs"};
static const char *const times[] = {"at 7", "at half past six", "at noon", "after work",
                                    "before lunch", "at nine sharp", "around four",
                                    "tomorrow morning", "on friday night", "on sunday"};
static const char *const moods[] = {"really tired", "so happy", "a bit late", "quite busy",
                                    "very hungry", "all set", "still sick", "super excited"};

/* Every user draws these once; %-letters of a template stand for them. */
typedef struct {
    const char *self, *friend[3], *place[2], *food[2], *sport, *job, *greet, *end, *time[2],
        *mood[2];
} user;

static const char *const templates[] = {
    "%g %f, i am %m, can we meet %p %t?",
    "%g %f, running late, i will be %p %t.",
    "do you want %o tonight? i can pick it up near the %P.",
    "the %j is done, i will send it %t. %e, %s",
    "%g %f, are you coming to %x %t?",
    "%x was great today, i am %m now.",
    "please bring the %j %p, %f is waiting.",
    "i left my keys %p, could you ask %f?",
    "%f says the %P has the best %o in town.",
    "no time today, the %j is not finished. maybe %t? %e, %s",
    "happy birthday %f! let us have %o %p %t. %e, %s",
    "on my way to the %P, then %x with %f.",
    "can you call me %t? it is about the %j.",
    "%g %f, thanks for the %o, it was lovely. %e, %s",
    "i will be %p with %f, join us for %o %t.",
    "sorry, i am %m, let us do %x %t instead."};

static const char *draw(rng *r, const char *const *list, size_t n)
{
    return list[rng_below(r, (uint32_t)n)];
}
#define DRAW(r, list) draw((r), (list), countof(list))

/* The first half of a table is one town's words, the second half the other's.  One word
 * in fifty of the first town's users is a visitor's. */
enum { OTHER_TOWN = 1000 };

static const char *draw_local(rng *r, const char *const *list, size_t n, uint32_t id)
{
    bool visitor = rng_below(r, 50) == 0;
    bool other = id >= OTHER_TOWN || visitor;
    return draw(r, list + (other ? n / 2 : 0), n / 2);
}
#define TOWN(r, list, id) draw_local((r), (list), countof(list), (id))

static user make_user(uint64_t seed, uint32_t id)
{
    rng r = rng_for(seed, 0, id, 1);
    user u = {.self = TOWN(&r, names, id), .sport = TOWN(&r, sports, id),
              .job = TOWN(&r, jobs, id), .greet = DRAW(&r, greets), .end = DRAW(&r, ends)};
    for (int i = 0; i < 3; i++)
        u.friend[i] = TOWN(&r, names, id);
    for (int i = 0; i < 2; i++) {
        u.place[i] = TOWN(&r, places, id);
        u.food[i] = TOWN(&r, foods, id);
        u.time[i] = DRAW(&r, times);
        u.mood[i] = DRAW(&r, moods);
    }
    return u;
}

/* Mostly the first of a habit, now and then the second. */
static const char *pick(rng *r, const char *const *list, uint32_t n)
{
    return rng_below(r, 4) ? list[0] : list[rng_below(r, n)];
}

static om_status put_word(buf *out, const user *u, char letter, rng *r)
{
    switch (letter) {
    case 'g': return buf_str(out, str_of(u->greet));
    case 'f': return buf_str(out, str_of(pick(r, u->friend, 3)));
    case 'm': return buf_str(out, str_of(pick(r, u->mood, 2)));
    case 'P': return buf_str(out, str_of(pick(r, u->place, 2)));
    case 'p': return buf_fmt(out, "at the %s", pick(r, u->place, 2));
    case 't': return buf_str(out, str_of(pick(r, u->time, 2)));
    case 'o': return buf_str(out, str_of(pick(r, u->food, 2)));
    case 'x': return buf_str(out, str_of(u->sport));
    case 'j': return buf_fmt(out, "%s", u->job);
    case 'e': return buf_str(out, str_of(u->end));
    case 's': return buf_str(out, str_of(u->self));
    default: return OM_EARG;
    }
}

/* "mara: <message>\n": the keyboard knows whose phone it is. */
static om_status put_line(buf *out, const user *u, rng *r)
{
    const char *t = DRAW(r, templates);
    TRY(buf_fmt(out, "%s: ", u->self));
    for (; *t; t++) {
        if (*t != '%')
            TRY(buf_put(out, t, 1));
        else
            TRY(put_word(out, u, *++t, r));
    }
    return buf_put(out, "\n", 1);
}

static om_status write_user(uint64_t seed, uint32_t id, uint32_t lines, const char *dir,
                            const char *suffix, uint32_t use, om_err *err)
{
    char path[4096];
    user u = make_user(seed, id);
    rng r = rng_for(seed, 0, id, use);
    buf out = buf_growing(1u << 30);
    om_status s = OM_OK;
    for (uint32_t i = 0; i < lines && s == OM_OK; i++)
        s = put_line(&out, &u, &r);
    snprintf(path, sizeof(path), "%.3900s/user-%04u%s.txt", dir, id, suffix);
    if (s == OM_OK)
        s = os_write_file_atomic(path, out.data, out.len, err);
    buf_free(&out);
    return s;
}

int main(int argc, char **argv)
{
    uint64_t first, last, lines, seed = 1;
    om_err err = {0};
    if (argc < 5 || !str_u64(str_of(argv[1]), &first) || !str_u64(str_of(argv[2]), &last) ||
        !str_u64(str_of(argv[3]), &lines) || last > UINT32_MAX || lines > 10000000 ||
        (argc > 5 && !str_u64(str_of(argv[5]), &seed))) {
        fprintf(stderr, "usage: keyboard-text FIRST LAST LINES DIR [SEED]\n");
        return 2;
    }
    om_status s = os_mkdirs(argv[4], &err);
    uint32_t held = (uint32_t)(lines / 10 + 1);
    for (uint64_t id = first; id < last && s == OM_OK; id++) {
        s = write_user(seed, (uint32_t)id, (uint32_t)lines, argv[4], "", 2, &err);
        if (s == OM_OK)
            s = write_user(seed, (uint32_t)id, held, argv[4], ".heldout", 3, &err);
    }
    if (s != OM_OK)
        fprintf(stderr, "keyboard-text: %s\n", err.msg[0] ? err.msg : om_status_text(s));
    return s == OM_OK ? 0 : 1;
}
