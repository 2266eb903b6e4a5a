package login

import (
	"errors"
	"fmt"
	"net/url"
)

// maxPage is how long the address of a page may be, in bytes. A control message of OpenVPN 2.6 has about half of that.
const maxPage = 2048

// CheckPage returns nil if a server's address is that of a web page, which may be shown to a user and handed to a browser: http or
// https, in the letters of RFC 3986, without a user name in front of the host, and at most 2048 bytes.
func CheckPage(address string) error {
	if len(address) > maxPage {
		return fmt.Errorf("an address of %d bytes, more than %d", len(address), maxPage)
	}
	for _, c := range []byte(address) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("an address with the byte %#x", c)
		}
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return errors.New("an address that cannot be read")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("an address that is neither http nor https")
	case u.Hostname() == "":
		return errors.New("an address without a host")
	case u.User != nil:
		return errors.New("an address that seems to be of another host")
	}
	return nil
}
