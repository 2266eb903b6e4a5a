package profile

import (
	"slices"
	"strings"
)

// Kind is what a file is, by its content. Its name says nothing: files are renamed.
type Kind uint8

// The kinds. Unknown is none of the others.
const (
	Unknown       Kind = iota // nothing that KindOf recognises
	WireGuard                 // a wg-quick file
	OpenVPN                   // an .ovpn file
	Configuration             // of penstock itself
)

// String names the kind in a sentence.
func (k Kind) String() string {
	return [...]string{"a file of an unknown kind", "a wg-quick file", "an OpenVPN profile", "a configuration of penstock"}[k]
}

// KindOf recognises a file by the first line that only one kind has.
func KindOf(text []byte) Kind {
	for line := range strings.Lines(string(text)) {
		line = strings.ToLower(strings.TrimSpace(line))
		if line == "" || strings.ContainsRune("#;", rune(line[0])) {
			continue
		}
		word := strings.Fields(line)[0]
		key, _, isYAML := strings.Cut(line, ":")
		name, _, isField := strings.Cut(line, "=")
		switch {
		case line[0] == '[' || isField && slices.Contains(wireguardFields, strings.TrimSpace(name)):
			return WireGuard
		case slices.Contains(openvpnDirectives, word) || line[0] == '<':
			return OpenVPN
		case isYAML && slices.Contains(configurationKeys, key):
			return Configuration
		}
	}
	return Unknown
}

// Lines with these words at their beginning say what the file is.
var (
	wireguardFields   = []string{"privatekey", "address", "publickey", "allowedips", "presharedkey", "dns"}
	openvpnDirectives = []string{
		"client", "remote", "dev", "proto", "tls-client", "pull", "auth-user-pass", "nobind", "persist-tun", "persist-key", "resolv-retry",
		"ca", "cert", "key", "cipher", "auth", "remote-cert-tls", "verb", "setenv", "server-poll-timeout", "comp-lzo", "compress", "port",
		"remote-random", "data-ciphers", "tls-auth", "tls-crypt", "tls-version-min", "reneg-sec", "dhcp-option", "redirect-gateway", "route",
	}
	configurationKeys = []string{"version", "profile", "rules", "listen", "transports", "include", "dns", "categories", "peers", "always_on"}
)
