package openvpn_test

import (
	"fmt"
	"strings"

	"penstock/router/transport/openvpn"
)

func ExampleParseProfile() {
	text := `client
dev tun
remote vpn.example 1194 udp
peer-fingerprint 00:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10:11:12:13:14:15:16:17:18:19:1a:1b:1c:1d:1e:1f
up /etc/openvpn/update-resolv-conf
`
	profile, warnings, err := openvpn.ParseProfile(strings.NewReader(text), "corp.ovpn")
	fmt.Println(profile, err)
	fmt.Println(warnings)

	_, _, err = openvpn.ParseProfile(strings.NewReader(text+"tls-cript corp.key\n"), "corp.ovpn")
	fmt.Println(err)
	// Output:
	// profile of vpn.example <nil>
	// [corp.ovpn:5: up is left out: a profile runs no programs]
	// corp.ovpn:6: unknown directive "tls-cript"; did you mean "tls-crypt"?
}
