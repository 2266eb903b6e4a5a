package doctor

import (
	"fmt"
	"strings"
	"time"

	"penstock/cmd/internal/control"
)

const (
	manyRestarts = 3
	oldList      = 14 * 24 * time.Hour // a subscription is looked at once a day
	scarceRoom   = 100 << 20           // bytes
	noRoom       = 8 << 20             // bytes
)

const notRunning = "penstock does not run"

// notAsked says why the running penstock was not asked.
func (f *Facts) notAsked() string {
	if f.Absent || f.Running.Why == "" {
		return notRunning
	}
	return "the running penstock was not asked: see the first line"
}

// unconfigured says why there is no configuration.
func (f *Facts) unconfigured() string {
	if f.Invalid != "" {
		return "the configuration has a fault: mend that first"
	}
	return orElse(f.Config.Why, "there is no configuration")
}

func judgeRunning(f *Facts) []control.Finding {
	s := f.Running.Is
	switch {
	case !f.Running.Known && f.Absent && f.Unit.Is.State == "failed":
		return fault("see why: journalctl -u penstock -n 50", "penstock does not run: its unit has failed")
	case !f.Running.Known && f.Absent:
		return notChecked("penstock does not run: what only a running one knows was not checked")
	case !f.Running.Known:
		return notChecked(f.Running.Why)
	case s.State == "connected" && !s.Degraded:
		return ok("%s", s.Verdict)
	case s.State == "connected":
		return warning("mend what follows, then see: penstock status", "%s", s.Verdict)
	}
	return fault("mend what follows, then see: penstock status", "%s", s.Verdict)
}

func judgeUnit(f *Facts) []control.Finding {
	u := f.Unit.Is
	switch {
	case !f.Unit.Known:
		return notChecked(f.Unit.Why)
	case !u.Installed:
		return notChecked("systemd has no unit penstock.service")
	case u.State == "failed":
		return fault("journalctl -u penstock -n 50 says why; then: systemctl restart penstock", "failed: %s, exit code %d", u.Result, u.Exit)
	case u.Restarts > manyRestarts:
		return warning("journalctl -u penstock says why it ends", "%s, %s, restarted %d times", u.State, u.Enabled, u.Restarts)
	case u.State == "active" && u.Enabled == "disabled":
		return warning("systemctl enable penstock", "active, but disabled: the next boot does not start it")
	case u.State == "inactive" && u.Enabled == "enabled":
		return warning("systemctl start penstock", "enabled, but inactive")
	}
	return ok("%s, %s, restarts: %d", u.State, u.Enabled, u.Restarts)
}

func judgeConfig(f *Facts) []control.Finding {
	c := f.Checked.Is
	switch {
	case f.Invalid != "":
		return fault("mend the file; penstock check -c FILE says more", "%s", firstLine(f.Invalid))
	case !f.Config.Known:
		return notChecked(f.Config.Why)
	case !f.Checked.Known:
		return notChecked(orElse(f.Checked.Why, "it was not checked") + ": run penstock check -c " + f.Config.Is.Path)
	case c.Fault != "":
		return fault("penstock check -c "+f.Config.Is.Path, "%s", firstLine(c.Fault))
	case len(c.Failed) > 0:
		return fault("penstock check -c "+f.Config.Is.Path, "tests that do not hold: %d: %s", len(c.Failed), firstLine(c.Failed[0]))
	case len(c.Warnings) > 0:
		return warning("penstock check -c "+f.Config.Is.Path+" shows all", "%s: warnings: %d: %s", f.Config.Is.Path, len(c.Warnings), firstLine(c.Warnings[0]))
	}
	return ok("%s: rules: %d", f.Config.Is.Path, len(f.Config.Is.Rules))
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

func judgeSecrets(f *Facts) []control.Finding {
	if !f.Secrets.Known {
		return notChecked(orElse(f.Secrets.Why, f.unconfigured()))
	}
	var bad []string
	for _, s := range f.Secrets.Is {
		if s.Why != "" {
			bad = append(bad, s.Why)
		}
	}
	if len(bad) > 0 {
		return fault("do what each of them says", "%s", some(bad))
	}
	return ok("files that nobody else may read: %d", len(f.Secrets.Is))
}

func judgeReload(f *Facts) []control.Finding {
	s := f.Running.Is
	switch {
	case !f.Running.Known:
		return notChecked(f.notAsked())
	case s.ReloadError != "":
		return fault("mend it, then: penstock reload", "the last reload was refused: %s", firstLine(s.ReloadError))
	case len(s.Restart) > 0:
		return warning("restart penstock", "these changes wait for a restart: %s", strings.Join(s.Restart, ", "))
	}
	return ok("the configuration that was read last is in force")
}

func judgeClock(f *Facts) []control.Finding {
	const mend = "set the clock: timedatectl set-ntp true, or date -s TIME"
	if f.Now.Before(f.Built) {
		return fault(mend, "the clock reads %s, before this penstock was made at %s: certificates count as not yet valid", stamp(f.Now), stamp(f.Built))
	}
	if !f.Past.Known {
		return notChecked(orElse(f.Past.Why, f.unconfigured()))
	}
	if behind := f.Past.Is.Behind(f.Now); behind != "" {
		return fault(mend, "%s: WireGuard servers ignore this machine", behind)
	}
	return ok("%s, and nothing that is surely over is later", stamp(f.Now))
}

func stamp(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" }

func judgeTransports(f *Facts) []control.Finding {
	var list []control.Finding
	for _, e := range f.Endpoints.Is {
		if e.Error != "" {
			list = append(list, control.Finding{
				Name: "transports: " + e.Transport, Result: control.ResultFault,
				Found: fmt.Sprintf("its server %s has no address: %s", e.Host, firstLine(e.Error)), Mend: "see the resolver and the path; or write an address instead of the name",
			})
		}
	}
	if !f.Running.Known {
		if len(list) > 0 {
			return list
		}
		return notChecked(f.notAsked())
	}
	for _, t := range f.Running.Is.Transports {
		list = append(list, judgeTransport(t, f.Now))
	}
	if len(list) == 0 {
		return ok("none is configured")
	}
	return list
}

func judgeTransport(t control.TransportStatus, now time.Time) control.Finding {
	name := "transports: " + t.Name
	since := ""
	if !t.LastRx.IsZero() {
		since = fmt.Sprintf(", received %s ago", now.Sub(t.LastRx).Round(time.Second))
	}
	via := ""
	if t.Active != "" {
		via = " via " + t.Active
	}
	switch {
	case t.State == "connected" && t.Degraded:
		return control.Finding{Name: name, Result: control.ResultWarning, Found: fmt.Sprintf("connected%s, but degraded (%s)%s", via, t.Reason, since), Mend: "see the network's path, or: penstock reconnect " + t.Name}
	case t.State == "connected":
		return control.Finding{Name: name, Result: control.ResultOK, Found: "connected" + via + since}
	case t.State == "down" || t.State == "quiesced":
		return control.Finding{Name: name, Result: control.ResultWarning, Found: t.State + ", as it was told", Mend: "penstock up " + t.Name}
	}
	if t.SignIn != "" {
		return control.Finding{Name: name, Result: control.ResultWarning, Found: "its server wants its user to sign in: " + firstLine(t.SignIn) + since, Mend: "penstock login " + t.Name}
	}
	found := t.State
	for _, more := range []string{t.Reason, firstLine(t.Error)} {
		if more != "" {
			found += ": " + more
		}
	}
	return control.Finding{Name: name, Result: control.ResultFault, Found: found + since, Mend: "see whether its server runs and the path leads there; then: penstock reconnect " + t.Name}
}

func judgeLists(f *Facts) []control.Finding {
	if !f.Lists.Known {
		return notChecked(orElse(f.Lists.Why, f.notAsked()))
	}
	var bad, old []string
	entries := 0
	for _, l := range f.Lists.Is {
		entries += l.Entries
		switch {
		case l.Error != "":
			bad = append(bad, fmt.Sprintf("%s of %s: %s", l.List, l.Category, firstLine(l.Error)))
		case strings.Contains(l.List, "://") && !l.Updated.IsZero() && f.Now.Sub(l.Updated) > oldList:
			old = append(old, fmt.Sprintf("%s is %d days old", l.List, int(f.Now.Sub(l.Updated).Hours()/24)))
		}
	}
	switch {
	case len(bad) > 0:
		return fault("mend it, then: penstock lists refresh", "%s", some(bad))
	case len(old) > 0:
		return warning("penstock lists refresh, then see the error in: penstock lists", "%s", some(old))
	}
	return ok("lists: %d, entries: %d", len(f.Lists.Is), entries)
}

func judgeDisk(f *Facts) []control.Finding {
	if !f.Disks.Known {
		return notChecked(orElse(f.Disks.Why, f.unconfigured()))
	}
	var list []control.Finding
	for _, d := range f.Disks.Is {
		what := fmt.Sprintf("%s (%s): %d MiB are free", d.Path, strings.Join(d.Of, ", "), d.Free>>20)
		one := control.Finding{Name: "disk: " + d.Path, Result: control.ResultOK, Found: what}
		switch {
		case d.Full:
			one.Result, one.Found, one.Mend = control.ResultFault, d.Path+": no further file can be made", "remove files there: df -i "+d.Path
		case d.Free < noRoom:
			one.Result, one.Mend = control.ResultFault, "make room there: df "+d.Path
		case d.Free < scarceRoom:
			one.Result, one.Mend = control.ResultWarning, "make room there: df "+d.Path
		}
		list = append(list, one)
	}
	if len(list) == 0 {
		return ok("nothing is written")
	}
	return list
}
