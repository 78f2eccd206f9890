/* text_stream_test.c - every cut of valid text gives the same text; what is not UTF-8 becomes
 * U+FFFD. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "serve/text_stream.h"

static void every_cut(void **state) {
    (void)state;
    const char *text = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x8d z"; /* 1, 2, 3 and 4 bytes */
    size_t n = strlen(text);
    for (size_t cut = 0; cut <= n; cut++) {
        kr_text_stream s = {0};
        assert_int_equal(kr_text_push(&s, text, cut), 0);
        assert_memory_equal(s.text, text, s.length); /* a prefix, of whole characters: */
        assert_true((text[s.length] & 0xc0) != 0x80);
        assert_int_equal(kr_text_push(&s, text + cut, n - cut), 0);
        assert_string_equal(s.text, text);
        assert_int_equal(kr_text_end(&s), 0);
        assert_string_equal(s.text, text);
        kr_text_free(&s);
    }
    printf("%zu cuts\n", n + 1);
}

#define R "\xef\xbf\xbd"
static void broken_bytes(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *want;
    } cases[] = {
        {"\xff", R},
        {"a\x80z", "a" R "z"},
        {"\xc3(", R "("},
        {"\xc0\xaf", R R},             /* overlong */
        {"\xed\xa0\x80", R R R},       /* surrogate */
        {"\xf4\x90\x80\x80", R R R R}, /* past U+10FFFF */
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41",
         R R R R "A"},       /* the standard's own example, table 3-8 */
        {"\xf0\x9f\x90", R}, /* ends inside */
        {"\xe2\x82\xe2\x82\xac", R "\xe2\x82\xac"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kr_text_stream s = {0};
        for (const char *p = cases[i].bytes; *p; p++) assert_int_equal(kr_text_push(&s, p, 1), 0);
        assert_int_equal(kr_text_end(&s), 0);
        assert_string_equal(s.text, cases[i].want);
        kr_text_free(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_cut), cmocka_unit_test(broken_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
