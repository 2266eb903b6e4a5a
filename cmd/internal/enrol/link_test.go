package enrol

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestLinksAreReadBack(t *testing.T) {
	token := NewToken()
	for _, l := range []Link{{Base: "https://vpn.example:8443", Token: token}, {Base: "https://[2001:db8::1]", Token: token, Pin: Pin{1, 2}}} {
		got, err := ParseLink(" " + l.Reveal() + "\n")
		if err != nil || got != l {
			t.Errorf("%s: got another, %v", l.Base, err)
		}
	}
}

func TestParseLinkRefuses(t *testing.T) {
	good := Link{Base: "https://vpn.example:8443", Token: NewToken(), Pin: Pin{1}}.Reveal()
	for name, text := range map[string]string{
		"nothing":              "",
		"no HTTPS":             strings.Replace(good, "https:", "http:", 1),
		"no host":              strings.Replace(good, "vpn.example:8443", "", 1),
		"another path":         strings.Replace(good, "/join", "/joint", 1),
		"a user":               strings.Replace(good, "vpn", "u:p@vpn", 1),
		"a query":              strings.Replace(good, "#", "?x#", 1),
		"no token":             good[:strings.Index(good, "#")],
		"a token cut short":    good[:strings.Index(good, "#")+20],
		"a pin cut short":      good[:len(good)-1],
		"an empty pin":         good[:strings.Index(good, "#")+24],
		"two pins":             good + "." + good[len(good)-43:],
		"a pin of zeros":       good[:len(good)-43] + strings.Repeat("A", 43),
		"a line feed in it":    good[:len(good)-10] + "\n" + good[len(good)-10:],
		"a character too many": good + "A",
	} {
		if l, err := ParseLink(text); err == nil {
			t.Errorf("%s: got %v, want a refusal", name, l)
		} else if i := strings.Index(text, "#"); i >= 0 && len(text) > i+9 && strings.Contains(err.Error(), text[i+1:i+9]) {
			t.Errorf("%s: the error shows the token: %v", name, err)
		}
	}
}

func TestTokensStayHidden(t *testing.T) {
	token := NewToken()
	l := Link{Token: token}
	var shown strings.Builder
	fmt.Fprintf(&shown, "%v %+v %#v %s %x %d %q %v %+v %x", token, token, token, token, token, token, token, l, l, l)
	slog.New(slog.NewTextHandler(&shown, nil)).Info("x", "token", token, "link", l)
	for _, secret := range []string{token.text(), fmt.Sprintf("%x", token[:])[:8], fmt.Sprintf("%d %d %d", token[0], token[1], token[2])} {
		if strings.Contains(shown.String(), secret) {
			t.Errorf("got %s, with the token as %s", shown.String(), secret)
		}
	}
	if b, _ := json.Marshal(map[string]any{"d": fmt.Sprintf("%x", token.digest())}); strings.Contains(string(b), token.text()) {
		t.Error("the digest is the token")
	}
}
