package blocklist

import (
	"fmt"
	"regexp"
	"strings"
)

// maxExpressions limits the expressions in a Set, because Lookup tries each of them on every name.
const maxExpressions = 1000

// expression is a condition on the text of a name. A listed name takes precedence over every expression.
type expression struct {
	source  string // as in Entry.Expression
	keyword string // lower case; if set, the name must contain it
	re      *regexp.Regexp
	block   CategorySet
	allow   CategorySet
}

// KeywordPrefix marks an Entry.Expression that is a substring of a name instead of a regular expression.
const KeywordPrefix = "keyword:"

// compileExpression refuses expressions that match nearly everything. It uses only package regexp, whose run time is linear
// in the text.
func compileExpression(source string) (expression, error) {
	e := expression{source: source}
	if word, ok := strings.CutPrefix(source, KeywordPrefix); ok {
		e.keyword = strings.ToLower(word)
		if len(e.keyword) < 3 {
			return e, fmt.Errorf("keyword %q is too short: it matches too many names", word)
		}
		return e, nil
	}
	re, err := regexp.Compile(source)
	if err != nil {
		return e, err
	}
	for _, any := range []string{"", "com", "zq.example", "0-9.test"} {
		if re.MatchString(any) {
			return e, fmt.Errorf("expression %q matches any name", source)
		}
	}
	e.re = re
	return e, nil
}

func (e *expression) match(host string) bool {
	if e.re == nil {
		return strings.Contains(host, e.keyword)
	}
	return e.re.MatchString(host)
}

func matchExpressions(list []expression, host string) CategorySet {
	var block, allow CategorySet
	for i := range list {
		e := &list[i]
		if (block|e.block == block && allow|e.allow == allow) || !e.match(host) {
			continue
		}
		block |= e.block
		allow |= e.allow
	}
	return block &^ allow
}

// matchExpressionsWire takes a well-formed wire name.
func matchExpressionsWire(list []expression, wire []byte) CategorySet {
	text := make([]byte, 0, 256)
	for len(wire) > 1 {
		n := int(wire[0])
		if len(text) > 0 {
			text = append(text, '.')
		}
		for _, c := range wire[1 : 1+n] {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			text = append(text, c)
		}
		wire = wire[1+n:]
	}
	return matchExpressions(list, string(text))
}
