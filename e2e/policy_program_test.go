package e2e

import (
	"fmt"
	"os"
	"testing"

	"penstock/e2e/netlab"
)

// laptop: curl, dig -> [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
func TestRulesKnowProgramsAndUsers(t *testing.T) {
	t.Parallel()
	curl := program(t, "curl")
	w := newWorld(t, "  - {name: intranet,", fmt.Sprintf("  - {name: no-curl, match: {process: [%q], cidr: %s}, do: block}\n"+
		"  - {name: not-me, match: {uid: %d, cidr: [%s, %s]}, do: block}\n  - {name: intranet,", curl, newsIPv4, os.Getuid(), publicIPv4, netlab.ResolverIPv6)).up(t)
	c := &tryer{w, w.Laptop}
	refused := []int{notConnected, 35, 52, 56}
	tryAll(t, w.Laptop, []attempt{
		{"a program that a rule names is refused", "curl -4 https://news.example/", "", refused},
		{"a user that a rule names is refused", "curl -4 https://public.example/", "", refused},
		{"elsewhere both go", "curl -4 http://echo.example/", "this is echo.example", nil},
	})
	t.Run("another program is let through", func(t *testing.T) {
		if got, err := tlsTo(newsIPv4+":443", netlab.NewsSite, nil)(t, c); !got {
			t.Errorf("got %v, want an answer", err)
		}
	})
	if f := w.laptop.denied(t, newsIPv4+":443"); f.Rule != "no-curl" {
		t.Errorf("got rule %s, want no-curl", f.Rule)
	}
	if f := w.laptop.denied(t, publicIPv4+":443"); f.Rule != "not-me" {
		t.Errorf("got rule %s, want not-me", f.Rule)
	}
	w.nothingInClear(t)
}
