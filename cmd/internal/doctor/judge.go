package doctor

import (
	"fmt"
	"slices"
	"strings"

	"penstock/cmd/internal/control"
)

// check judges facts. Its findings bear its name, or begin with it.
type check struct {
	name  string
	judge func(*Facts) []control.Finding
}

// checks returns all of them, in the order in which to mend what they find: what is first may be the reason for what is later.
func checks() []check {
	return []check{
		{"penstock", judgeRunning},
		{"unit", judgeUnit},
		{"rights", judgeRights},
		{"configuration", judgeConfig},
		{"secrets", judgeSecrets},
		{"reload", judgeReload},
		{"clock", judgeClock},
		{"TUN device", judgeDevice},
		{"TUN offloads", judgeOffloads},
		{"UDP offloads", judgeUDP},
		{"nftables", judgeNftables},
		{"policy routing", judgeRules},
		{"packet marks", judgeMarks},
		{"host changes", judgeLeft},
		{"path IPv4", func(f *Facts) []control.Finding { return judgePath(f, true) }},
		{"path IPv6", func(f *Facts) []control.Finding { return judgePath(f, false) }},
		{"captive portal", judgePortal},
		{"resolver", judgeResolver},
		{"leak", judgeLeak},
		{"addresses", judgeAddresses},
		{"ports", judgePorts},
		{"other VPNs", judgeOthers},
		{"transports", judgeTransports},
		{"lists", judgeLists},
		{"disk", judgeDisk},
	}
}

// Judge makes all checks. Where one could not be made for lack of rights, and the running penstock made it, its finding counts.
func Judge(f *Facts, theirs []control.Finding) []control.Finding {
	var list []control.Finding
	for _, c := range checks() {
		for _, one := range c.judge(f) {
			if one.Name == "" {
				one.Name = c.name
			}
			i := slices.IndexFunc(theirs, func(t control.Finding) bool { return t.Name == one.Name && t.Result != control.ResultNotChecked })
			if one.Result == control.ResultNotChecked && i >= 0 {
				one = theirs[i]
				one.Found += " (says the running penstock)"
			}
			list = append(list, one)
		}
	}
	return list
}

// IsSound reports whether no finding is a warning or a fault.
func IsSound(list []control.Finding) bool {
	return !slices.ContainsFunc(list, func(f control.Finding) bool {
		return f.Result == control.ResultWarning || f.Result == control.ResultFault
	})
}

func one(result, mend, format string, args ...any) []control.Finding {
	return []control.Finding{{Result: result, Found: fmt.Sprintf(format, args...), Mend: mend}}
}

func ok(format string, args ...any) []control.Finding {
	return one(control.ResultOK, "", format, args...)
}

func warning(mend, format string, args ...any) []control.Finding {
	return one(control.ResultWarning, mend, format, args...)
}

func fault(mend, format string, args ...any) []control.Finding {
	return one(control.ResultFault, mend, format, args...)
}

func notChecked(why string) []control.Finding {
	return one(control.ResultNotChecked, "", "%s", why)
}

// firstLine is what fits a table.
func firstLine(text string) string {
	first, rest, more := strings.Cut(text, "\n")
	if more && strings.TrimSpace(rest) != "" {
		first += " ..."
	}
	return first
}

// some joins the first three of a list.
func some(list []string) string {
	if len(list) > 3 {
		return strings.Join(list[:3], "; ") + fmt.Sprintf("; and %d more", len(list)-3)
	}
	return strings.Join(list, "; ")
}
