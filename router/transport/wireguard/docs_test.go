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
	b.WriteString(severalEndpoints)
	return b.String()
}

const severalEndpoints = `
## Several endpoints

` + "`Endpoint`" + ` may stand on several lines of a [Peer], or have several values separated by commas, up to 16 in all: gateways of one
site with the same key and the same peers. A name with several addresses counts as several endpoints. When penstock connects it asks
all of them for the same handshake at once, and uses the one whose answer comes first: the nearest. Their order does not matter. It
stays with that one:

- After the network has changed, or the connection was lost, the endpoint in use has 100 ms before the others are asked. So
  penstock moves only to one that is nearer by more than that.
- When it has sent something and heard nothing for a second, it asks the endpoint in use for a new handshake, the next one 300 ms
  later, and the others one by one after that. The first to answer is in use from then on.
- An endpoint that answers again later is not used until the one in use is silent. What it sends by itself is not heard, except for
  30 s after penstock has connected, and after the endpoint in use was silent and has answered again: a gateway of a
  [fleet](fleet.md#load) that has many peers, or is drained, has another one call them.
- New connections work at once. Those through the old gateway are lost: the new one resets them when they send.
- If none answers, the transport is lost as soon as with one endpoint, and all are tried again and again.
- A client with nothing to send sends no more than with one endpoint.

` + "`penstock status`" + ` shows the endpoint in use and how many others are known. Each move counts in
` + "`penstock_transport_reconnects_total`" + ` with the reason ` + "`moved`" + `. [performance.md](performance.md#moving-to-another-gateway) has how
long a move takes. If two endpoints are one gateway, its log says at most once a minute that it ignored a repeated handshake.
To addresses of IPv6, a client with several endpoints sends from any port, whatever ` + "`ListenPort`" + ` says.

Other programs know one endpoint for each peer. Of several lines, wg(8) and the Android app take the last, and the apps for iPhone and
macOS refuse the file. So of several endpoints in ` + "`listen.wireguard.endpoint`" + ` or ` + "`--endpoint`" + `, the files of ` + "`penstock peer add`" + ` and of
the page of an invitation have the first alone, and only ` + "`penstock join`" + ` writes all. A stock client stays with the first.
`

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
