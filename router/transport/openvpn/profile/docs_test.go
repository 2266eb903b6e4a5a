package profile

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/openvpn.md")

// page returns docs/openvpn.md, made from the table of directives.
func page() string {
	var b strings.Builder
	b.WriteString("# OpenVPN profiles\n\nMade from the source by `go test ./router/transport/openvpn/profile -run Page -update`: edit it there.\n\n" +
		"penstock reads .ovpn files of openvpn(8) 2.4 to 2.7 as they are: in UTF-8 or UTF-16, with any ends of lines, with inline blocks\n" +
		"and `<connection>`. A directive that is not known is an error, unless the profile announces it with `ignore-unknown-option`,\n" +
		"`setenv opt` or `setenv FORWARD_COMPATIBLE 1`. `penstock check` and `penstock import` list every line that is passed over with\n" +
		"a warning.\n\n" +
		"A server may ask who its user is while it lets penstock in: for a page to be opened (web sign-on), for a code, or for a\n" +
		"password that neither the profile nor the configuration has. The transport is then `waiting`, `penstock status` says for\n" +
		"what, and `penstock login NAME` opens the page, or reads the answer: see\n" +
		"[A server that wants its user](laptop.md#a-server-that-wants-its-user). What penstock understands:\n\n" +
		"| from the server | what is asked, and what is bounded |\n|---|---|\n" +
		"| `AUTH_PENDING` | nothing: the server waits for its user for the time that it says. Together, such messages extend a negotiation to half of `reneg-sec` (30 minutes without one) |\n" +
		"| `WEB_AUTH`, `OPEN_URL` | a page is opened: http or https, at most 2048 bytes, without control characters. Anything else blocks the transport |\n" +
		"| `CR_TEXT` | an answer, which goes to the same session. At most 16 questions in a session; the last one counts |\n" +
		"| `CRV1` in a refusal | an answer, which goes into the next attempt |\n" +
		"| nothing: `static-challenge` in the profile | an answer, before the server is asked at all; with `scrv1` (the default) or `concat` |\n\n" +
		"Answers and tokens of the server are kept in memory only, for reconnects. A token (`auth-gen-token` of the server) spares the\n" +
		"user questions until the server refuses it. A one-time code without a token is asked for at each new session.\n")
	all := table()
	for _, kind := range []struct {
		fates         []fate
		title, column string
	}{
		{[]fate{honoured, pushable}, "Honoured", "what it does"},
		{[]fate{moot}, "Always so, or without consequence", "why"},
		{[]fate{ignored, program}, "Passed over with a warning", "why"},
		{[]fate{refused}, "Refused", "why, and the mend"},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| directive | %s |\n|---|---|\n", kind.title, kind.column)
		notes := make(map[string][]string)
		for name, e := range all {
			if slices.Contains(kind.fates, e.fate) {
				note := e.note
				if note == "" {
					note = "as in openvpn(8)"
				}
				notes[note] = append(notes[note], name)
			}
		}
		var rows []string
		for note, names := range notes {
			slices.Sort(names)
			rows = append(rows, fmt.Sprintf("| `%s` | %s |\n", strings.Join(names, "`, `"), strings.ReplaceAll(note, "|", `\|`)))
		}
		slices.Sort(rows)
		b.WriteString(strings.Join(rows, ""))
	}
	return b.String()
}

func TestThePageIsThatOfTheTable(t *testing.T) {
	const path = "../../../../docs/openvpn.md"
	if *update {
		if err := os.WriteFile(path, []byte(page()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != page() {
		t.Errorf("%s is not what the table of directives says (%v): run go test ./router/transport/openvpn/profile -run Page -update", path, err)
	}
}

// TestTheTableIsComplete compares the table with what the installed openvpn knows.
func TestTheTableIsComplete(t *testing.T) {
	path, err := exec.LookPath("openvpn")
	if err != nil {
		for _, sbin := range []string{"/usr/sbin/openvpn", "/usr/local/sbin/openvpn"} {
			if _, missing := os.Stat(sbin); missing == nil {
				path, err = sbin, nil
			}
		}
	}
	switch {
	case err == nil:
	case os.Getenv("PENSTOCK_REQUIRE_OPENVPN") == "1":
		t.Fatalf("PENSTOCK_REQUIRE_OPENVPN=1: %v", err)
	default:
		t.Skipf("needs openvpn: %v", err)
	}
	help, _ := exec.CommandContext(t.Context(), path, "--help").Output() // it exits with 1
	names := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^--([a-z][a-z0-9-]*[a-z0-9])(?:[ :]|$)`).FindAllSubmatch(help, -1) {
		names[string(m[1])] = true
	}
	if len(names) < 150 || !bytes.Contains(help, []byte("--remote")) {
		t.Fatalf("openvpn --help names %d directives, want over 150:\n%s", len(names), help)
	}
	known := table()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if known[name].fate == unknown {
			t.Errorf("openvpn --help has %s, and the table does not", name)
		}
	}
}
