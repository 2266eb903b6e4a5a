package profile_test

import (
	"fmt"
	"strings"

	"penstock/router/transport/openvpn/profile"
)

func ExampleParse() {
	text := `client
dev tun
remote vpn.example 1194 udp
peer-fingerprint 00:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10:11:12:13:14:15:16:17:18:19:1a:1b:1c:1d:1e:1f
up /etc/openvpn/update-resolv-conf
`
	files := profile.Files{} // everything stands in the profile: no file is read
	corp, warnings, err := profile.Parse(strings.NewReader(text), "corp.ovpn", files)
	fmt.Println(corp, err)
	fmt.Println(warnings)

	_, _, err = profile.Parse(strings.NewReader(text+"tls-cript corp.key\n"), "corp.ovpn", files)
	fmt.Println(err)
	// Output:
	// profile of vpn.example <nil>
	// [corp.ovpn:5: up is ignored: nothing in a profile is run; penstock sets DNS and routes itself]
	// corp.ovpn:6: unknown directive "tls-cript"; did you mean "tls-crypt"?
}
