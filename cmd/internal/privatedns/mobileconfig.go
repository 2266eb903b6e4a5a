package privatedns

import (
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"fmt"
)

// MobileConfig returns a configuration profile for iOS and macOS that makes the access the resolver of the device
// (payload com.apple.dnsSettings.managed: iOS 14 and macOS 11). It uses HTTPS if that is served. The profile for another token of
// the same peer replaces this one.
func (a Access) MobileConfig(peer, server string) []byte {
	settings := [][2]string{{"DNSProtocol", "HTTPS"}, {"ServerURL", a.URL}}
	if a.URL == "" {
		settings = [][2]string{{"DNSProtocol", "TLS"}, {"ServerName", a.Host}}
	}
	id := "penstock." + server + "." + peer
	var b bytes.Buffer
	b.WriteString(xml.Header + `<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">` + "\n" +
		"<plist version=\"1.0\">\n<dict>\n<key>PayloadContent</key>\n<array>\n<dict>\n<key>DNSSettings</key>\n<dict>\n")
	for _, s := range settings {
		entry(&b, s[0], s[1])
	}
	b.WriteString("</dict>\n")
	payload(&b, "com.apple.dnsSettings.managed", id+".dns", "DNS of "+server)
	b.WriteString("</dict>\n</array>\n")
	payload(&b, "Configuration", id, "DNS of "+server+" for "+peer)
	entry(&b, "PayloadScope", "System")
	b.WriteString("</dict>\n</plist>\n")
	return b.Bytes()
}

// payload writes what every payload has.
func payload(b *bytes.Buffer, kind, id, shown string) {
	entry(b, "PayloadType", kind)
	entry(b, "PayloadIdentifier", id)
	entry(b, "PayloadUUID", uuid(id))
	entry(b, "PayloadDisplayName", shown)
	b.WriteString("<key>PayloadVersion</key>\n<integer>1</integer>\n")
}

func entry(b *bytes.Buffer, key, value string) {
	fmt.Fprintf(b, "<key>%s</key>\n<string>", key)
	_ = xml.EscapeText(b, []byte(value)) // a buffer takes all
	b.WriteString("</string>\n")
}

// uuid returns the same UUID for the same text (RFC 9562 5.8).
func uuid(text string) string {
	h := sha256.Sum256([]byte(text))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
