# c_functions.awk - prints "LINES NAME FILE:LINE" for every function defined in the C files given.
#
# LINES counts from the first line of the definition to its closing brace, both included. Comments,
# strings, characters and preprocessor lines are blanked first; a function is a block at depth 0
# that follows a parameter list. Braces that do not balance are reported and fail.

function begin_file() {
    depth = 0; comment = 0; directive = 0; head = ""; first = 0; body = 0
}
function end_file() {
    if (name_of_file != "" && depth != 0) {
        print name_of_file ": braces do not balance" > "/dev/stderr"
        bad = 1
    }
}
# The line without comments, strings and character constants.
function blank(line,    out, i, c, two, quote) {
    out = ""
    for (i = 1; i <= length(line); i++) {
        c = substr(line, i, 1)
        two = substr(line, i, 2)
        if (comment) {
            if (two == "*/") { comment = 0; i++ }
        } else if (two == "/*") { comment = 1; i++ }
        else if (two == "//") break
        else if (c == "\"" || c == "'") {
            quote = c
            for (i++; i <= length(line) && substr(line, i, 1) != quote; i++)
                if (substr(line, i, 1) == "\\") i++
            out = out "0"
        } else out = out c
    }
    return out
}
# The name before the first parenthesis; KR_FN(name) and its like give the name inside.
function name_in(text,    before, inside) {
    before = text
    sub(/[ \t]*\(.*/, "", before)
    sub(/.*[^A-Za-z0-9_]/, "", before)
    if (before ~ /^[A-Z0-9_]+$/ && text ~ /\([A-Za-z0-9_]+\)[ \t]*\(/) {
        inside = text; sub(/^[^(]*\(/, "", inside); sub(/\).*/, "", inside)
        return inside
    }
    return before
}
function is_function(text) {
    return text ~ /\)[ \t]*$/ && text !~ /=/
}
FNR == 1 { end_file(); begin_file(); name_of_file = FILENAME }
{
    line = blank($0)
    if (directive || line ~ /^[ \t]*#/) { # with its continuation lines
        directive = $0 ~ /\\$/
        next
    }
    for (i = 1; i <= length(line); i++) {
        c = substr(line, i, 1)
        if (c == "{") {
            if (depth == 0) {
                if (head ~ /^[ \t]*extern[ \t]+0[ \t]*$/) { head = ""; first = 0; continue }
                if (is_function(head)) { body = first; called = name_in(head) }
            }
            depth++
        } else if (c == "}") {
            if (depth == 0) { head = ""; first = 0; continue } # of extern "C"
            if (--depth == 0) {
                if (body) print FNR - body + 1, called, FILENAME ":" body
                body = 0; head = ""; first = 0
            }
        } else if (depth == 0) {
            if (c == ";") { head = ""; first = 0 }
            else {
                if (!first && c !~ /[ \t]/) first = FNR
                head = head c
            }
        }
    }
    if (depth == 0) head = head " "
}
END { end_file(); exit bad }
