/* test_serve.c - the server from inside: documents against routes, and hostile or many
 * clients that test_serve.sh cannot be. */
#include "serve/serve.h"
#include "test.h"

static bool in_document(const char *doc, const http_route *r)
{
    static const char *const names[] = {[HTTP_GET] = "get", [HTTP_POST] = "post"};
    char path[128], method[16];
    snprintf(path, sizeof(path), "\n  %s:\n", r->path);
    snprintf(method, sizeof(method), "\n    %s:\n", names[r->method]);
    const char *at = strstr(doc, path), *next = at ? strstr(at + 1, "\n  /") : NULL;
    const char *m = at ? strstr(at, method) : NULL;
    return m && (!next || m < next);
}

static void openapi_agrees(test *t)
{
    buf b = {0};
    om_err err = {0};
    size_t documented = 0, routes = 0;
    CHECK_OK(t, os_read_file(OM_SOURCE_DIR "/docs/openapi-serve.yaml", 1 << 20, &b, &err), err);
    CHECK(t, buf_u8(&b, 0) == OM_OK);
    for (const http_route *r = serve_routes; r->path; r++, routes++)
        if (!in_document((char *)b.data, r))
            test_fail(t, __FILE__, __LINE__, "%s is not in openapi-serve.yaml", r->path);
    for (const char *p = (char *)b.data; (p = strstr(p, "\n  /")); p++)
        documented++;
    CHECK_INT(t, documented, routes);
    buf_free(&b);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"openapi", "docs/openapi-serve.yaml has the route table's operations", openapi_agrees},
        {0}};
    return test_main(argc, argv, cases);
}
