package enrol

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
)

// joinPath is the page's path, and where keys are posted.
const joinPath = "/join"

// Token is the secret of an invitation. Only Link shows it.
type Token [16]byte

// NewToken makes a token.
func NewToken() Token {
	var t Token
	rand.Read(t[:]) // never fails: crypto/rand, Go 1.24
	return t
}

// digest is what the gateway keeps of a token. It needs no salt and no slow function: nobody guesses 128 random bits.
func (t Token) digest() [sha256.Size]byte { return sha256.Sum256(t[:]) }

// String hides the token.
func (t Token) String() string { return "(redacted)" }

// GoString hides the token.
func (t Token) GoString() string { return t.String() }

// Format hides the token from every verb: %x would print its bytes otherwise.
func (t Token) Format(f fmt.State, _ rune) { f.Write([]byte(t.String())) }

// LogValue hides the token.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// text is the token as it stands in a link and in a request.
func (t Token) text() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// parseToken reads what text returns.
func parseToken(text string) (t Token, ok bool) {
	return t, decode(t[:], text)
}

// Pin is the SHA-256 of a certificate's public key (SubjectPublicKeyInfo, as RFC 7469 pins it). The zero value is no pin: then a
// certificate authority that the system trusts has to vouch for the gateway.
type Pin [sha256.Size]byte

// IsZero reports whether there is no pin.
func (p Pin) IsZero() bool { return p == Pin{} }

// Link is an invitation as it is sent.
type Link struct {
	Base  string // of the gateway, as in listen.enrol.url
	Token Token
	Pin   Pin
}

// Reveal returns the link with its token.
func (l Link) Reveal() string {
	text := strings.TrimSuffix(l.Base, "/") + joinPath + "#" + l.Token.text()
	if !l.Pin.IsZero() {
		text += "." + base64.RawURLEncoding.EncodeToString(l.Pin[:])
	}
	return text
}

// errNotALink does not repeat what it could not read: it may be a token.
var errNotALink = errors.New("this is not the link of an invitation: copy all of it, from https:// to the end, and put it in quotes")

// ParseLink reads what Reveal returns.
func ParseLink(text string) (Link, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != joinPath || u.RawQuery != "" {
		return Link{}, errNotALink
	}
	l := Link{Base: "https://" + u.Host}
	token, pin, pinned := strings.Cut(u.Fragment, ".")
	ok := false
	if l.Token, ok = parseToken(token); !ok || pinned && !decode(l.Pin[:], pin) || pinned && l.Pin.IsZero() {
		return Link{}, errNotALink
	}
	return l, nil
}

// decode reads base64 that fills dst and has nothing beside it.
func decode(dst []byte, text string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != len(dst) || strings.ContainsAny(text, "\r\n") { // which the decoder skips
		return false
	}
	copy(dst, b)
	return true
}
