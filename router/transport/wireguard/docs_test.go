package wireguard

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/wireguard.md")

// page returns docs/wireguard.md, made from the table of fields.
func page() string {
	var b strings.Builder
	b.WriteString("# wg-quick files\n\nMade from the source by `go test ./router/transport/wireguard -run Page -update`: edit it there.\n\n" +
		"penstock reads the files of wg(8) and wg-quick(8) as they are: in UTF-8 or UTF-16, with any ends of lines, field names in any\n" +
		"case, lists separated by commas or blanks, comments behind `#`. A field that is not known is an error. `penstock check` and\n" +
		"`penstock import` list every line that is passed over.\n")
	for _, s := range sections {
		for _, kind := range []struct {
			fate
			title, column string
		}{
			{honoured, "honoured", "what it does"},
			{ignored, "passed over with a warning", "why"},
			{refused, "refused", "why, and the mend"},
		} {
			var rows strings.Builder
			last := ""
			for _, f := range s.fields {
				note := f.note
				if f.fate == refused {
					note += "; " + f.mend
				}
				switch {
				case f.fate != kind.fate:
				case note == last:
					fmt.Fprintf(&rows, ", `%s`", f.name)
				default:
					if last != "" {
						fmt.Fprintf(&rows, " | %s |\n", last)
					}
					fmt.Fprintf(&rows, "| `%s`", f.name)
					last = note
				}
			}
			if last != "" {
				fmt.Fprintf(&rows, " | %s |\n", last)
			}
			if rows.Len() > 0 {
				fmt.Fprintf(&b, "\n## [%s], %s\n\n| field | %s |\n|---|---|\n%s", s.name, kind.title, kind.column, &rows)
			}
		}
	}
	return b.String()
}

func TestThePageIsThatOfTheTable(t *testing.T) {
	const path = "../../../docs/wireguard.md"
	if *update {
		if err := os.WriteFile(path, []byte(page()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(must(os.ReadFile(path))); got != page() {
		t.Errorf("%s is not what the table of fields says: run go test ./router/transport/wireguard -run Page -update", path)
	}
}

// TestTheTableIsComplete compares the table with the fields that wg(8) and wg-quick(8) of wireguard-tools 1.0.20250521 have.
func TestTheTableIsComplete(t *testing.T) {
	for section, names := range map[string]string{
		"Interface": "PrivateKey ListenPort FwMark Address DNS MTU Table PreUp PostUp PreDown PostDown SaveConfig",
		"Peer":      "PublicKey PresharedKey AllowedIPs Endpoint PersistentKeepalive",
	} {
		for _, name := range strings.Fields(names) {
			f, ok := fields[section][strings.ToLower(name)]
			if !ok || f.name != name {
				t.Errorf("[%s] has no %s", section, name)
			}
		}
		for _, f := range fields[section] {
			if f.note == "" || f.read == nil || f.fate == refused && f.mend == "" {
				t.Errorf("[%s] %s is not complete: %+v", section, f.name, f)
			}
		}
	}
}
