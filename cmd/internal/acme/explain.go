package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode"

	protocol "golang.org/x/crypto/acme"

	"penstock/cmd/internal/config"
)

// mostSaid bounds what is repeated of the authority's words, characters.
const mostSaid = 400

// step is an error with what the authority was asked for.
type step struct {
	doing string
	err   error
}

func during(doing string, err error) error {
	if err == nil {
		return nil
	}
	return &step{doing, err}
}

func (s *step) Error() string { return s.doing + ": " + s.err.Error() }
func (s *step) Unwrap() error { return s.err }

// limitOf reports whether the authority has had too many requests, and how long it wants to have none.
func limitOf(err error) (wait time.Duration, limited bool) {
	p, ok := errors.AsType[*protocol.Error](err)
	if !ok {
		return 0, false
	}
	wait, limited = protocol.RateLimit(p)
	return max(wait, 0), limited || p.StatusCode == 429
}

// explain says what went wrong, and how to mend it.
func explain(err error, settings *config.ACME, name string) string {
	at := settings.Directory
	if u, bad := url.Parse(at); bad == nil {
		at = u.Host
	}
	if denied, ok := errors.AsType[*protocol.AuthorizationError](err); ok {
		why := "it does not say why"
		if len(denied.Errors) > 0 {
			why = words(denied.Errors[0])
		}
		return fmt.Sprintf("%s could not find out that %s is this machine: %s. The public DNS must have the name at an address of this machine, and its port 80, or 443 if a page is there, must be open to everybody", at, name, why)
	}
	if order, ok := errors.AsType[*protocol.OrderError](err); ok && order.Problem != nil {
		return fmt.Sprintf("%s refuses the order: %s", at, words(order.Problem))
	}
	if _, limited := limitOf(err); limited {
		return fmt.Sprintf("%s has had too many requests: %s", at, words(err))
	}
	if p, ok := errors.AsType[*protocol.Error](err); ok {
		return fmt.Sprintf("%s refuses: %s", at, words(p))
	}
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Sprintf("the certificate of %s is not trusted: %s. If it is the authority of your company, name its root with acme.ca", at, brief(untrusted.Err.Error()))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("%s takes too long", at)
	}
	if asked, ok := errors.AsType[*url.Error](err); ok {
		err = asked.Err
		if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
			return fmt.Sprintf("%s cannot be reached: %s", at, brief(err.Error()))
		}
		return fmt.Sprintf("%s cannot be asked: %s", at, brief(err.Error()))
	}
	if s, ok := errors.AsType[*step](err); ok && !errors.Is(err, errNoWay) {
		return fmt.Sprintf("%s does not answer as an authority does while it %s: %s", at, s.doing, brief(s.err.Error()))
	}
	return brief(err.Error())
}

// words are those of the authority, if the error has any.
func words(err error) string {
	p, ok := errors.AsType[*protocol.Error](err)
	switch {
	case !ok:
		return brief(err.Error())
	case p.Detail == "":
		return brief(strings.TrimSpace(fmt.Sprintf("%s (status %d)", p.ProblemType, p.StatusCode)))
	}
	return brief(p.Detail)
}

// brief makes one bounded line of what somebody else has written.
func brief(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if r := []rune(text); len(r) > mostSaid {
		text = string(r[:mostSaid]) + "..."
	}
	return strings.TrimRight(text, ".")
}
