package login

import (
	"strings"
	"testing"
)

func TestPages(t *testing.T) {
	for _, row := range []struct{ name, address, want string }{
		{"https", "https://sso.example/login?state=a%20b&x=1#top", ""},
		{"plain http", "http://192.0.2.1:8080/", ""},
		{"IPv6", "https://[2001:db8::1]/", ""},
		{"as long as may be", "https://sso.example/" + strings.Repeat("a", 2028), ""},
		{"longer", "https://sso.example/" + strings.Repeat("a", 2029), "2049 bytes"},
		{"a file", "file:///etc/passwd", "neither http nor https"},
		{"a script", "javascript:alert(1)", "neither http nor https"},
		{"another program", "ms-settings://x/", "neither http nor https"},
		{"an option", "--help", "neither http nor https"},
		{"nothing", "", "neither http nor https"},
		{"no host", "https:///login", "without a host"},
		{"a port alone", "https://:443/", "without a host"},
		{"opaque", "https:sso.example", "without a host"},
		{"a line", "https://sso.example/\nsign in: x", "byte 0xa"},
		{"an escape sequence", "https://sso.example/\x1b[2J", "byte 0x1b"},
		{"a blank", "https://sso.example/ --flag", "byte 0x20"},
		{"letters that turn round", "https://sso.example/\u202etxt", "byte 0xe2"},
		{"a name that poses as the host", "https://sso.corp.example@evil.example/", "of another host"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := CheckPage(row.address)
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}
