//go:build !linux

package doctor

import (
	"context"
	"errors"
	"os"

	"penstock/router/hostnet/direct"
)

func rights(context.Context) (Rights, error) {
	return Rights{User: os.Geteuid()}, errors.ErrUnsupported
}

func device(context.Context) (Device, error) { return Device{}, errors.ErrUnsupported }

func kernelOffers(context.Context) (Kernel, error) { return Kernel{}, errors.ErrUnsupported }

func nftables(context.Context) (string, error) { return "", errors.ErrUnsupported }

func links(context.Context) ([]Link, error) { return nil, errors.ErrUnsupported }

func routes(context.Context) ([]Route, error) { return nil, errors.ErrUnsupported }

func resolver() (Resolver, error) { return Resolver{}, errors.ErrUnsupported }

func ways() ([]direct.Way, error) { return nil, errors.ErrUnsupported }

func sockets(context.Context, []Port) ([]Socket, error) { return nil, errors.ErrUnsupported }

func room(string) (Disk, error) { return Disk{}, errors.ErrUnsupported }

func unit(context.Context) (Unit, error) { return Unit{}, errors.ErrUnsupported }
