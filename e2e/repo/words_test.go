package repo

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// wordRule is a pattern that no text of the repository holds. The patterns are written so that they do not find
// themselves.
type wordRule struct {
	pattern *regexp.Regexp
	why     string
}

func wordRules() []wordRule {
	return []wordRule{
		{regexp.MustCompile(`(?i)\bwhite[-_ ]?list`), `say "allowlist"`},
		{regexp.MustCompile(`(?i)\bblack[-_ ]?list`), `say "denylist"`},
		{regexp.MustCompile(`(?i)\bkill[-_ ]?switch`), `say "lockdown"`},
		{regexp.MustCompile(`(?i)\bexit[-_ ]node`), `say "gateway" or "via"`},
		{regexp.MustCompile(`(?i)\bfake-?ip\b`), `there is no such thing here: names come from DNS, SNI, HTTP and QUIC`},
		{regexp.MustCompile(`(^|[^\w.*:])/(home|Users)/\w`), "a path of one machine"},
		{regexp.MustCompile(`(^|[^\w.*:/])/(work|root)/`), "a path of one machine"},
		{regexp.MustCompile(`(?i)\b[A-Z]:\\+Users\\`), "a path of one machine"},
		{regexp.MustCompile(`\b(proxy|sum)[.]golang[.]org\b|\bregistry[.]npmjs[.]org\b|\bdeb[.]debian[.]org\b|\bpypi[.]org\b`),
			"a package registry: whoever builds chooses their own"},
	}
}

// texts are the files that people read or that run; others (go.sum, pictures) are not looked at.
func texts() []string {
	return []string{".go", ".md", ".yml", ".yaml", ".mod", ".sh", ".service", ".json", ".conf", ".txt", ".toml", ""}
}

func TestTextsKeepTheWordRules(t *testing.T) {
	rules := append(wordRules(), registryRule(t)...)
	var complaints []string
	check := func(path string) {
		text, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(path)))
		if err != nil {
			t.Fatal(err)
		}
		complaints = append(complaints, checkWords(rules, path, string(text))...)
	}
	walk(t, func(path string, d fs.DirEntry) {
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > 1<<20 || !slices.Contains(texts(), filepath.Ext(path)) {
			return // also leaves out a binary built in the root
		}
		check(path)
	})
	for _, path := range []string{".ci/run", ".ci/summary.go", ".ci/tools.mod"} {
		check(path)
	}
	report(t, complaints)
}

// registryRule refuses the host of the registry that this machine builds from.
func registryRule(t *testing.T) []wordRule {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	var rules []wordRule
	for _, m := range regexp.MustCompile(`://(?:[^/@,|\s]*@)?([^/:,|\s]+)`).FindAllStringSubmatch(string(out), -1) {
		if m[1] != "localhost" {
			rules = append(rules, wordRule{regexp.MustCompile(`\b` + regexp.QuoteMeta(m[1]) + `\b`), "the package registry of this machine"})
		}
	}
	return rules
}

// checkWords returns what is wrong in one text. Complaints about registries and paths do not repeat what they found.
func checkWords(rules []wordRule, path, text string) []string {
	var complaints []string
	text = regexp.MustCompile(`/home/ana\b`).ReplaceAllString(text, "") // ana is the person of our examples
	for i, line := range strings.Split(text, "\n") {
		for _, r := range rules {
			if r.pattern.MatchString(line) {
				complaints = append(complaints, fmt.Sprintf("%s:%d: a word that is not used here: %s", path, i+1, r.why))
			}
		}
	}
	return complaints
}

func TestWordRulesRefuse(t *testing.T) {
	tests := []struct {
		name, line string
		want       int
	}{
		{"nothing in plain words", "The allowlist wins; see /run/penstock and https://example.com/home/page", 0},
		{"a list by its old colour", "add it to the White" + "list", 1},
		{"the other colour", "black" + "-list", 1},
		{"a switch that kills", "kill " + "switch", 1},
		{"a node to exit from", "exit" + " node", 1},
		{"made-up addresses", "fake" + "ip", 1},
		{"somebody's home", "cd /" + "home/bob/penstock", 1},
		{"nothing in the home of the examples' person", "cd /home/ana/penstock", 0},
		{"root's home", "see /" + "root/notes", 1},
		{"a registry", "GOPROXY=https://proxy." + "golang.org", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := checkWords(wordRules(), "p", tt.line); len(got) != tt.want {
				t.Errorf("got %d complaints %q, want %d", len(got), got, tt.want)
			}
		})
	}
}
