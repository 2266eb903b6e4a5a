package enrol

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/cmd/internal/peerbook"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// newInvitations returns an empty book.
func newInvitations(t *testing.T) *invitations {
	t.Helper()
	return openInvitations(filepath.Join(t.TempDir(), invitationsName))
}

// add makes an invitation for a day from noon.
func add(t *testing.T, s *invitations, name string) Token {
	t.Helper()
	token, err := s.add(peerbook.Terms{Name: name}, noon, noon.Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestOfAThousandClaimsOneSucceeds(t *testing.T) {
	s := newInvitations(t)
	token := add(t, s, "ana")
	var won, used atomic.Int32
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 1000 {
		wg.Go(func() {
			<-start
			switch terms, why, err := s.claim(token, noon); {
			case err == nil && terms.Name == "ana":
				won.Add(1)
			case errors.Is(err, errNotValid) && why == isUsed:
				used.Add(1)
			default:
				t.Errorf("got %v, %q, %v", terms, why, err)
			}
		})
	}
	close(start)
	wg.Wait()
	if won.Load() != 1 || used.Load() != 999 {
		t.Errorf("%d succeeded and %d were late, want 1 and 999", won.Load(), used.Load())
	}
	if _, why, err := openInvitations(s.path).claim(token, noon); err == nil || why != isUsed {
		t.Errorf("after a restart: got %q, %v, want it used", why, err)
	}
}

func TestWhenAnInvitationIsValid(t *testing.T) {
	tests := []struct {
		name   string
		change func(s *invitations, token *Token) error
		after  time.Duration // since it was made
		want   reason        // empty: it is valid
	}{
		{"one that is fresh is", nil, 0, ""},
		{"one in its last second is", nil, 24*time.Hour - time.Second, ""},
		{"one is not when its time is over", nil, 24 * time.Hour, isLate},
		{"one is when the clock was set back a little", nil, -time.Minute, ""},
		{"one is not when the clock reads a day before", nil, -24 * time.Hour, isEarly},
		{"one that was taken back is not", func(s *invitations, _ *Token) error { return s.revoke("ana", noon) }, 0, isRevoked},
		{"one that nobody made is not", func(_ *invitations, t *Token) error { *t = NewToken(); return nil }, 0, isUnknown},
		{"one that was given back is", func(s *invitations, t *Token) error {
			if _, _, err := s.claim(*t, noon); err != nil {
				return err
			}
			return s.release(*t)
		}, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newInvitations(t)
			token := add(t, s, "ana")
			if tt.change != nil {
				if err := tt.change(s, &token); err != nil {
					t.Fatal(err)
				}
			}
			_, why, err := openInvitations(s.path).claim(token, noon.Add(tt.after)) // as after a restart
			if why != tt.want || (err == nil) != (tt.want == "") {
				t.Errorf("got %q, %v, want %q", why, err, tt.want)
			}
		})
	}
}

func TestTakingBack(t *testing.T) {
	s := newInvitations(t)
	for _, name := range []string{"ana", "ben"} {
		if _, _, err := s.claim(add(t, s, name), noon); err != nil {
			t.Fatal(err)
		}
	}
	add(t, s, "ben") // again, after the first was used
	add(t, s, "cleo")
	for _, row := range []struct {
		name  string
		after time.Duration
		want  string
	}{
		{"ana", 0, "the invitation for ana is used: end the access with: penstock peer disable ana"},
		{"ben", 0, ""},
		{"ben", 0, "the invitation for ben is revoked already"},
		{"cleo", 48 * time.Hour, "the invitation for cleo is expired already"},
		{"dan", 0, "there is no invitation for dan"},
	} {
		got := ""
		if err := s.revoke(row.name, noon.Add(row.after)); err != nil {
			got = err.Error()
		}
		if got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

func TestNobodyIsInvitedTwice(t *testing.T) {
	s := newInvitations(t)
	add(t, s, "ana")
	if _, err := s.add(peerbook.Terms{Name: "ana"}, noon, noon.Add(time.Hour)); err == nil || !strings.Contains(err.Error(), "penstock peer uninvite ana") {
		t.Errorf("got %v, want what to do", err)
	}
	if _, err := s.add(peerbook.Terms{Name: "ana"}, noon.Add(25*time.Hour), noon.Add(26*time.Hour)); err != nil {
		t.Errorf("after the first has expired: %v", err)
	}
}

func TestInvitationsAreBounded(t *testing.T) {
	s := newInvitations(t)
	for i := range mostInvitations {
		digest := NewToken().digest()
		s.list = append(s.list, invitation{Terms: peerbook.Terms{Name: fmt.Sprint("p", i)}, SHA256: fmt.Sprintf("%x", digest), Made: noon, Until: noon.Add(time.Hour), State: open})
	}
	if _, err := s.add(peerbook.Terms{Name: "ana"}, noon, noon.Add(time.Hour)); err == nil || !strings.Contains(err.Error(), "1000 invitations are open") {
		t.Errorf("got %v, want a refusal", err)
	}
	s.list[7].State, s.list[7].Ended = revoked, noon
	add(t, s, "ana")
	if len(s.list) != mostInvitations || s.list[7].Terms.Name != "p8" {
		t.Errorf("got %d invitations with %s as the eighth, want the one that is over to make room", len(s.list), s.list[7].Terms.Name)
	}
	if _, err := s.add(peerbook.Terms{Name: "late"}, noon.Add(remembered+2*time.Hour), noon.Add(remembered+3*time.Hour)); err != nil || len(s.list) != 2 {
		t.Errorf("got %d invitations, %v, want all that are long over forgotten, but for the one of a day", len(s.list), err)
	}
}

func TestTheFileStaysOneThatIsRead(t *testing.T) {
	s := newInvitations(t)
	add(t, s, "ana")
	if _, err := s.add(peerbook.Terms{Name: "ben", Groups: []string{strings.Repeat("g", mostBytes)}}, noon, noon.Add(time.Hour)); err == nil || !strings.Contains(err.Error(), s.path) {
		t.Errorf("got %v, want a refusal", err)
	}
	if again := openInvitations(s.path); again.fault != nil || len(again.list) != 1 {
		t.Errorf("after a restart: got %d invitations, %v", len(again.list), again.fault)
	}
}

func TestADamagedFileLetsNobodyIn(t *testing.T) {
	good := newInvitations(t)
	token := add(t, good, "ana")
	b, err := os.ReadFile(good.path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if strings.Contains(text, token.text()) {
		t.Fatal("the file has the token in it")
	}
	for name, damaged := range map[string]string{
		"half of it":           text[:len(text)/2],
		"nothing":              "",
		"something behind it":  text + "[]",
		"an unknown key":       strings.Replace(text, `"sha256"`, `"forever": true, "sha256"`, 1),
		"an unknown state":     strings.Replace(text, `"open"`, `"opened"`, 1),
		"no state":             strings.Replace(text, `"state": "open"`, `"state": ""`, 1),
		"a short digest":       strings.Replace(text, `"sha256": "`, `"sha256": "","x":"`, 1),
		"an end before it":     strings.Replace(text, "2026-03-02", "2026-02-02", 1),
		"a name that is none":  strings.Replace(text, `"ana"`, `"../ana"`, 1),
		"no list":              "{}",
		"another type of list": `["ana"]`,
	} {
		path := filepath.Join(t.TempDir(), invitationsName)
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		s := openInvitations(path)
		if s.fault == nil || !strings.Contains(s.fault.Error(), path) {
			t.Errorf("%s: got the fault %v, want one that names the file", name, s.fault)
		}
		if _, _, err := s.claim(token, noon); err == nil || errors.Is(err, errNotValid) {
			t.Errorf("%s: claim: got %v, want the fault", name, err)
		}
		if _, err := s.add(peerbook.Terms{Name: "ben"}, noon, noon.Add(time.Hour)); err == nil {
			t.Errorf("%s: an invitation was made", name)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != damaged {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if err := os.Chmod(good.path, 0o666); err != nil {
		t.Fatal(err)
	}
	if s := openInvitations(good.path); s.fault == nil && os.PathSeparator == '/' {
		t.Error("a file that all may write is read")
	}
}

func TestWhatIsNotWrittenHasNotHappened(t *testing.T) {
	s := newInvitations(t)
	token := add(t, s, "ana")
	dir := filepath.Dir(s.path)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.claim(token, noon); err == nil || errors.Is(err, errNotValid) {
		t.Errorf("without a disk: got %v, want the failure", err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.claim(token, noon); err != nil {
		t.Errorf("once the disk is back: %v", err)
	}
}
