package blocklist

import (
	"fmt"
	"regexp"
	"strings"
)

// maxExpressions bounds the expressions of a Set: each is tried on every name that is looked up.
const maxExpressions = 1000

// expression is a condition on the whole text of a name. Expressions are less specific than any listed name.
type expression struct {
	source  string // as in Entry.Expression
	keyword string // lower case; if set, contained in the name
	re      *regexp.Regexp
	block   CategorySet
	allow   CategorySet
}

// KeywordPrefix begins an Entry.Expression that is a plain part of a name and not a regular expression.
const KeywordPrefix = "keyword:"

// compileExpression refuses what would match nearly everything. Only Go's engine is used: its time is linear in the text.
func compileExpression(source string) (expression, error) {
	e := expression{source: source}
	if word, ok := strings.CutPrefix(source, KeywordPrefix); ok {
		e.keyword = strings.ToLower(word)
		if len(e.keyword) < 3 {
			return e, fmt.Errorf("keyword %q is too short to tell names apart", word)
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
