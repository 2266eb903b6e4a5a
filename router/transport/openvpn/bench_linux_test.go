package openvpn

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"penstock/router/transport/openvpn/internal/certtest"
	"penstock/router/transport/openvpn/profile"
)

// udpPacket makes an inner UDP packet; its checksum is left out, as IPv4 allows.
func udpPacket(src, dst netip.AddrPort, size int) []byte {
	b := make([]byte, size)
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[10:], sum16(b[:20]))
	binary.BigEndian.PutUint16(b[20:], src.Port())
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(size-20))
	return b
}

const benchPacket = 1440

// floodDevice gives the same packet for ever and counts what it takes.
type floodDevice struct {
	*fakeDevice
	packet []byte
	taken  chan int
}

func (d *floodDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if d.packet == nil {
		<-d.closed
		return 0, net.ErrClosed
	}
	select {
	case <-d.closed:
		return 0, net.ErrClosed
	default:
	}
	for i := range bufs {
		sizes[i] = copy(bufs[i][offset:], d.packet)
	}
	return len(bufs), nil
}

func (d *floodDevice) Write(bufs [][]byte, offset int) (int, error) {
	select {
	case d.taken <- len(bufs):
	default:
	}
	return len(bufs), nil
}

// BenchmarkInteropUpload floods the real server and counts what arrives behind it.
func BenchmarkInteropUpload(b *testing.B) {
	for _, network := range []string{"udp", "tcp"} {
		b.Run(network, func(b *testing.B) {
			ca := certtest.NewAuthority(b, "ca")
			server := newRealServer(b, ca, network, "")
			server.start()
			sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: server.inner.AsSlice()})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = sink.Close() }()
			_ = sink.SetReadBuffer((4 << 20))
			device := &floodDevice{fakeDevice: newFakeDevice()}
			client := newBenchClient(b, profileFor(b, ca, network, server.port, ""), device)
			to := sink.LocalAddr().(*net.UDPAddr).AddrPort()
			device.packet = udpPacket(netip.AddrPortFrom(client.addr(b), 9), to, benchPacket)
			client.wg.Go(client.runPump)
			b.SetBytes(benchPacket)
			buf := make([]byte, 2048)
			tx := client.Stats().TxBytes
			for b.Loop() {
				if _, err := sink.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(client.Stats().TxBytes-tx)/float64(b.N)/benchPacket, "sent/received")
		})
	}
}

// BenchmarkInteropDownload floods the client from behind the real server.
func BenchmarkInteropDownload(b *testing.B) {
	for _, network := range []string{"udp", "tcp"} {
		b.Run(network, func(b *testing.B) {
			ca := certtest.NewAuthority(b, "ca")
			server := newRealServer(b, ca, network, "")
			server.start()
			device := &floodDevice{fakeDevice: newFakeDevice(), taken: make(chan int, 4096)}
			client := newBenchClient(b, profileFor(b, ca, network, server.port, ""), device)
			source, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(client.addr(b), 9)))
			if err != nil {
				b.Fatal(err)
			}
			stop := make(chan struct{})
			done := make(chan struct{})
			go func() {
				defer close(done)
				packet := make([]byte, benchPacket-28)
				for {
					select {
					case <-stop:
						return
					default:
						_, _ = source.Write(packet)
					}
				}
			}()
			b.SetBytes(benchPacket)
			n := 0
			for b.Loop() {
				for n == 0 {
					n = <-device.taken
				}
				n--
			}
			close(stop)
			<-done
			_ = source.Close()
		})
	}
}

type benchClient struct {
	*Client
	settings *settingsBox
}

func (c *benchClient) addr(b *testing.B) netip.Addr { return c.settings.last(b).Addrs[0].Addr() }

func newBenchClient(b *testing.B, profile *profile.Profile, device Device) *benchClient {
	b.Helper()
	box := &settingsBox{}
	client, err := New(Config{Name: "bench", Profile: profile, Device: device, Configure: box.set})
	if err != nil {
		b.Fatal(err)
	}
	client.pump.Do(func() {}) // started by the benchmark
	b.Cleanup(func() { _ = client.Close() })
	if err := client.Connect(b.Context()); err != nil {
		b.Fatal(fmt.Errorf("connect: %w", err))
	}
	return &benchClient{client, box}
}
