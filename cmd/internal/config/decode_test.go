package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// onLaptop begins a configuration whose rules follow.
const (
	onLaptop = "listen: {tun: {}}\n"
	rest     = "rules: {name: rest, do: direct}\n"
)

// parse reads text as the file config.yaml.
func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse(filepath.Join(t.TempDir(), "config.yaml"), []byte(text))
	if err != nil {
		t.Fatalf("Parse:\n%v", err)
	}
	return c
}

// TestANameMayLookLikeAPath has names that are also the paths of other values.
func TestANameMayLookLikeAPath(t *testing.T) {
	for _, text := range []string{
		"categories: {ads.on_missing: {}, ads: {on_missing: allow}}\n",
		"categories: {ads: {on_missing: allow}, ads.on_missing: {}}\n",
	} {
		text = strings.Replace(text, "{}", "{lists: {url: 'https://lists.example/a.txt'}}", 1)
		c := parse(t, onLaptop+text+rest)
		if got := c.Categories["ads"].OnMissing; got != "allow" {
			t.Errorf("%s: got on_missing %q, want allow", text, got)
		}
		if got := len(c.Categories["ads.on_missing"].Lists); got != 1 {
			t.Errorf("%s: got %d lists of ads.on_missing, want 1", text, got)
		}
	}
}

func TestANameIsGivenOnceOverAllFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "more.yaml", "categories: {ads: {on_missing: allow}}\n")
	path := write(t, dir, "config.yaml", "include: more.yaml\n"+onLaptop+"categories: {ads: {on_missing: block}}\n"+rest)
	_, err := Load(path)
	if want := path + ":3:14: categories.ads is defined already, at " + filepath.Join(dir, "more.yaml") + ":1:19: rename one of them"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAFileIsReadOnceUnderAnySpelling(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "more.yaml", "metrics: {listen: '127.0.0.1:9477'}\n")
	path := write(t, dir, "config.yaml", "include: [more.yaml, "+dir+"/.//more.yaml]\n"+onLaptop+rest)
	_, err := Load(path)
	if err == nil || !strings.Contains(err.Error(), "more.yaml is included already") || strings.Contains(err.Error(), "is set already") {
		t.Errorf("got %v, want that the file is included already, and nothing else", err)
	}
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]int{"1400": 1400, "01400": 1400, "0x578": 1400, "0": 0} {
		if got := parse(t, "listen: {tun: {mtu: "+text+"}}\n"+rest).Listen.TUN.MTU; got != want {
			t.Errorf("mtu: %s: got %d, want %d", text, got, want)
		}
	}
	for _, text := range []string{"1e3", "1400.5", "0o2570", "1_400", ".inf", "''", "9223372036854775808", "0x"} {
		if c, err := Parse("x.yaml", []byte("listen: {tun: {mtu: "+text+"}}\n"+rest)); err == nil {
			t.Errorf("mtu: %s: got %d, want an error", text, c.Listen.TUN.MTU)
		}
	}
}

func TestTextOfOtherSystemsIsRead(t *testing.T) {
	want := parse(t, onLaptop+rest)
	for name, text := range map[string]string{
		"a byte order mark":  "\uFEFF" + onLaptop + rest,
		"ends of DOS":        strings.ReplaceAll(onLaptop+rest, "\n", "\r\n"),
		"no end of the last": strings.TrimSuffix(onLaptop+rest, "\n"),
		"a document's marks": "---\n" + onLaptop + rest + "...\n",
	} {
		got := parse(t, text)
		if diff := cmp.Diff(want.Rules, got.Rules, places); diff != "" {
			t.Errorf("%s: rules (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(want.Listen, got.Listen, places); diff != "" {
			t.Errorf("%s: listen (-want +got):\n%s", name, diff)
		}
	}
}

func TestDirectIsNoTransport(t *testing.T) {
	c := parse(t, onLaptop+"rules: [{name: a, match: {port: 1}, do: {action: via, via: direct}}, {name: rest, do: {via: direct}}]\ntests: {to: x.example, expect: {via: direct}}\n")
	for _, do := range []Do{c.Rules[0].Do, c.Rules[1].Do, c.Tests[0].Expect} {
		if diff := cmp.Diff(Do{Action: "direct"}, do, places); diff != "" {
			t.Errorf("via: direct (-want +got):\n%s", diff)
		}
	}
}

// TestAHalfFileIsNotRead cuts a configuration at every byte, as a full disk or a copy that broke off does. Without its end
// a configuration must not run with less than all of its rules.
func TestAHalfFileIsNotRead(t *testing.T) {
	const whole = `version: 1
listen:
  tun:
    name: pen1
dns:
  upstreams:
    - address: 10.0.0.53
rules:
  - name: no-gambling
    match:
      category: [gambling, adult]
      not:
        port: 22
    do: block
  - name: lan
    match: {cidr: private}
    do: direct
  - name: rest
    do: drop
`
	want := parse(t, whole)
	for n := range len(whole) {
		c, err := Parse("x.yaml", []byte(whole[:n]))
		if err == nil {
			if diff := cmp.Diff(want.Rules, c.Rules, places); diff != "" {
				t.Fatalf("%d bytes are read as other rules (-want +got):\n%s\n%s", n, diff, whole[:n])
			}
		}
	}
}

func TestAFaultShowsTheLineThatWasRead(t *testing.T) {
	path := write(t, t.TempDir(), "config.yaml", onLaptop+rest)
	c := load1(t, path)
	if err := os.WriteFile(path, []byte("# the file has changed since\n# then\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := c.Fault("rules[0]", "no", "").Excerpt, strings.TrimSpace(rest); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := c.Fault("nothing.of.this", "no", ""); got.Excerpt != "" || got.Pos.String() != path {
		t.Errorf("a value that is not written: got %+v, want the file alone", got)
	}
}

func TestFaultsComeInTheOrderOfFilesAndLines(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b.yaml", "on_demand:\n  - {x: 1}\nwrong: 1\n")
	path := write(t, dir, "config.yaml", "wrong: 1\ninclude: b.yaml\nmetrics: 3\n")
	_, err := Load(path)
	if err == nil {
		t.Fatal("got no error, want faults")
	}
	var got []string
	for line := range strings.Lines(err.Error()) {
		if rest, ok := strings.CutPrefix(line, dir+string(filepath.Separator)); ok {
			place, _, _ := strings.Cut(rest, ": ")
			got = append(got, place)
		}
	}
	if want := "[config.yaml:1:1 config.yaml:3:10 b.yaml:2:5 b.yaml:2:6 b.yaml:3:1]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"ana": true, "Ana.Maria-2_x@corp": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "a b": false, "a/b": false, "a\nb": false, "é": false, "a:b": false, `a"b`: false,
	} {
		err := CheckName(name)
		if (err == nil) != ok {
			t.Errorf("%q: got %v, want an error: %v", name, err, !ok)
		}
		if err != nil && !strings.HasPrefix(err.Error(), fmt.Sprintf("the name %q ", name)) {
			t.Errorf("%q: got %v, which does not name it", name, err)
		}
	}
}

// TestCheckNewPeer: what cannot be a label of DNS, a file that is seen, or an argument of a command is no name for a new peer. A
// configuration that has such a peer loads.
func TestCheckNewPeer(t *testing.T) {
	for name, ok := range map[string]bool{
		"ana": true, "Ana.Maria-2_x@corp": true, "7": true, "a": true, "ana@corp.example": true, "a--b": true,
		"": false, "-": false, "--": false, ".": false, "..": false, "-x": false, "x-": false, "_x": false, "x.": false, ".x": false, "a..b": false,
		"a.-b": false, "@": false, "@x": false, "a b": false, "../x": false,
	} {
		err := CheckNewPeer(name)
		if (err == nil) != ok || err != nil && !strings.HasPrefix(err.Error(), fmt.Sprintf("the name %q ", name)) {
			t.Errorf("%q: got %v, want an error that names it: %v", name, err, !ok)
		}
	}
}

func TestServiceAddresses(t *testing.T) {
	for addresses, want := range map[string]string{
		"10.77.0.1/24":               "[10.77.0.2/24]",
		"[10.77.0.1/24, fd77::1/64]": "[10.77.0.2/24 fd77::2/64]",
		"10.77.0.3/30":               "[10.77.0.2/30]", // the next address is outside
		"10.77.0.0/31":               "[10.77.0.1/31]",
		"[10.77.0.1/32, fd77::1/64]": "[fd77::2/64]",
	} {
		if got := fmt.Sprint(parse(t, "listen: {tun: {address: "+addresses+"}}\n"+rest).Listen.TUN.ServiceAddrs()); got != want {
			t.Errorf("%s: got %s, want %s", addresses, got, want)
		}
	}
}

func TestTheDefaultsAreValid(t *testing.T) {
	c := parse(t, onLaptop+rest)
	for _, l := range c.Limits.numbers() {
		if l.value <= l.least || l.value >= l.most {
			t.Errorf("limits.%s is %s by default, want it well within %s", l.key, l.text, l.bounds)
		}
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	c.Limits.Dials, c.Rules = 0, nil
	err := c.Validate()
	if err == nil || strings.Count(err.Error(), "\n") < 1 || !strings.Contains(err.Error(), "limits.dials is 0") || !strings.Contains(err.Error(), "there are no rules") {
		t.Errorf("Validate of what was changed: got %v, want both faults", err)
	}
}
