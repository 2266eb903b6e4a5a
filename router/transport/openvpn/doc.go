// Package openvpn is a transport.Driver that speaks the OpenVPN protocol as a client: UDP and TCP, every
// control-channel protection (tls-auth, tls-crypt, tls-crypt-v2, dynamic), AEAD data channels in the classic and the
// epoch format, and renegotiation without loss. It connects with what package profile read from an .ovpn file.
//
// A Client joins an inner Device (a stack's) with one server. It brings sessions up and down and keeps the Device;
// what the server pushes is handed to Config.Configure as plain Settings.
//
//	client   what outlives sessions: Connect, the pump from the device, counters
//	session  one connection with one server: a goroutine that owns
//	         control.Channel   negotiations and messages
//	         data.Channel      keys, packets and the link
//	         push.List         what the server pushed
//	         liveness          when to ping and when to give up
//
// The package does not retry a lost session and does not decide when to connect. It touches no route, address or
// resolver of the host. It does not do static-key mode, CBC ciphers, compression, fragmentation or TAP devices.
package openvpn
