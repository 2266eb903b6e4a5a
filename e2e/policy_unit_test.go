package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// sentBy is what the tests read of the program that sends a flow.
type sentBy struct {
	Program string  `json:"program"`
	Unit    string  `json:"unit"`
	UID     *uint32 `json:"uid"`
	Dst     string  `json:"dst"`
	Flows   int     `json:"flows"`
	Blocked int     `json:"blocked"`
}

// laptop: curl in app-browser-1.scope, curl in sync.service -> [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
func TestRulesKnowUnits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "rules:\n", "programs: all\nflow_log: {file: flows.log}\nrules:\n", "dns:\n", "dns:\n  query_log: true\n", "  - {name: intranet,",
		"  - {name: no-sync, match: {unit: \"system/sync*\", cidr: "+newsIPv4+"}, do: block}\n  - {name: intranet,")
	curl := w.path("fetch")
	copied := func() { // as an update does it
		t.Helper()
		if r := run(t, w.Laptop, "sh", "-c", fmt.Sprintf("cp %s %s.new && mv %s.new %s", program(t, "curl"), curl, curl, curl)); r.code != 0 {
			t.Fatal(r)
		}
	}
	copied()
	slice := fmt.Sprintf("/sys/fs/cgroup/e2e%d.slice", os.Getpid())
	browser, sync := slice+"/app-org.example.browser-17.scope", slice+"/sync.service"
	if r := run(t, w.Laptop, "sh", "-c", "mount -t cgroup2 none /sys/fs/cgroup && mkdir -p "+browser+" "+sync+" && echo $$ > "+sync+"/cgroup.procs"); r.code != 0 {
		t.Skipf("no control groups of version 2 can be made here: %s", r)
	}
	t.Cleanup(func() {
		eventually(t, "the control groups are removed", func() error {
			if r := run(t, w.Laptop, "sh", "-c", fmt.Sprintf("! [ -e %s ] || rmdir %s %s %s", slice, browser, sync, slice)); r.code != 0 {
				return errors.New(r.String())
			}
			return nil
		})
	})
	w.up(t)
	in := func(group, url string, args ...string) []string {
		fetch := append([]string{curl, "-sS", "-4", "--max-time", "15", "--noproxy", "'*'", "--cacert", netlab.CAFile}, args...)
		return []string{"-c", fmt.Sprintf("echo $$ > %s/cgroup.procs && exec %s %s", group, strings.Join(fetch, " "), url)}
	}
	judged := func(t *testing.T) {
		t.Helper()
		if r := run(t, w.Laptop, "sh", in(browser, "https://news.example/")...); r.code != 0 {
			t.Errorf("the browser: %s, want an answer", r)
		}
		if r := run(t, w.Laptop, "sh", in(sync, "https://news.example/")...); r.code == 0 {
			t.Errorf("the same program in another unit: %s, want a refusal", r)
		}
	}
	t.Run("a unit that a rule names is refused, and the same program in another is not", judged)
	f := w.laptop.denied(t, newsIPv4+":443")
	if r := w.laptop.cli(t, "explain", "--flow", f.ID); f.Rule != "no-sync" || !strings.Contains(r.stdout, "unit sync.service") {
		t.Errorf("got rule %s, want no-sync; explain --flow: %s, want the unit", f.Rule, r)
	}
	eventually(t, "the flow log names the unit of the refused flow, and of who asks for names", func() error {
		log := w.read(t, "flows.log")
		for _, want := range []string{`"rule":"no-sync"`, `"proto":"dns"`} {
			lines := slices.DeleteFunc(strings.Split(log, "\n"), func(s string) bool { return !strings.Contains(s, want) })
			if !strings.Contains(strings.Join(lines, "\n"), `"unit":"sync.service","uid":0`) {
				run(t, w.Laptop, "sh", in(sync, "https://news.example/")...) // the program may be found after a quick answer
				return fmt.Errorf("the lines with %s are %q", want, lines)
			}
		}
		return nil
	})
	cmd := w.Laptop.Command(t.Context(), "sh", in(browser, "http://"+publicIPv4+"/drip/100000", "-o", "/dev/null", "--max-time", "60")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	eventually(t, "flows shows who sends one that no rule asks about", func() error {
		var answer struct{ Flows []sentBy }
		w.laptop.ask(t, &answer, "flows")
		for _, f := range answer.Flows {
			if f.Dst == publicIPv4+":80" && f.Program == curl && f.Unit == "app-org.example.browser.scope" && f.UID != nil {
				return nil
			}
		}
		return fmt.Errorf("flows: %+v", answer.Flows)
	})
	copied()
	t.Run("after an update the rule holds", judged)
	var sums struct {
		APIVersion string
		Programs   []sentBy
	}
	eventually(t, "flows --by-program sums both up", func() error {
		w.laptop.ask(t, &sums, "flows", "--by-program")
		got := map[string]sentBy{}
		for _, s := range sums.Programs { // a socket that is closed at once leaves the unit alone
			flows := got[s.Unit]
			got[s.Unit] = sentBy{Flows: flows.Flows + s.Flows, Blocked: flows.Blocked + s.Blocked}
		}
		b, s := got["app-org.example.browser.scope"], got["sync.service"]
		if b.Flows < 2 || b.Blocked != 0 || s.Blocked < 2 || sums.APIVersion != "penstock/v1" {
			return fmt.Errorf("got %+v", sums)
		}
		return nil
	})
	if r := w.laptop.cli(t, "explain", "https://news.example/", "--unit", "sync.service"); r.code != 6 || !strings.Contains(r.stdout, "unit sync.service") {
		t.Errorf("explain --unit: %s, want a block", r)
	}
	if r := w.laptop.cli(t, "explain", "https://news.example/", "--unit", "user/sync.service"); r.code != 0 || !strings.Contains(r.stdout, "user's unit sync.service") {
		t.Errorf("explain --unit of a user: %s, want no block", r)
	}
	w.nothingInClear(t)
}
