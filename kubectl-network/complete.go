package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// lookup bounds what completion asks the cluster for: a shell is waiting.
const lookup = 3 * time.Second

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeNames offers captures that there are and are not on the line already.
func (p *program) completeNames(k kind, several bool) completion {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && !several {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return p.complete(c, func(ctx context.Context) ([]string, error) {
			api, err := p.connect(k)
			if err != nil {
				return nil, err
			}
			names, err := api.list(ctx)
			return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(args, name) }), err
		})
	}
}

func (p *program) complete(c *cobra.Command, names func(context.Context) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	parent := c.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, lookup)
	defer cancel()
	found, err := names(ctx)
	if err != nil {
		cobra.CompErrorln(err.Error())
		return nil, cobra.ShellCompDirectiveError
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeFlags offers what flags that a command has can name.
func (p *program) completeFlags(c *cobra.Command, k kind) {
	offer := func(flag string, names func(ctx context.Context, client kubernetes.Interface, namespace string) ([]string, error)) {
		if c.Flags().Lookup(flag) == nil {
			return
		}
		// The only error is that of a flag which is not there.
		_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return p.complete(c, func(ctx context.Context) ([]string, error) {
				config, err := p.config.ToRESTConfig()
				if err != nil {
					return nil, err
				}
				client, err := kubernetes.NewForConfig(config)
				if err != nil {
					return nil, err
				}
				namespace, _, err := p.config.ToRawKubeConfigLoader().Namespace()
				if err != nil {
					return nil, err
				}
				return names(ctx, client, namespace)
			})
		})
	}
	offer("namespace", namespaceNames)
	offer("node", nodeNames)
	if k.namespaced {
		offer("pod", podNames)
	} else {
		offer("pod", podNamesWithNamespaces)
	}
	if c.Flags().Lookup("dry-run") != nil {
		_ = c.RegisterFlagCompletionFunc("dry-run", cobra.FixedCompletions([]string{"none", "client", "server"}, cobra.ShellCompDirectiveNoFileComp))
	}
}

func namespaceNames(ctx context.Context, client kubernetes.Interface, _ string) (names []string, err error) {
	list, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	return names, nil
}

func nodeNames(ctx context.Context, client kubernetes.Interface, _ string) (names []string, err error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	return names, nil
}

func podNames(ctx context.Context, client kubernetes.Interface, namespace string) (names []string, err error) {
	list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	return names, nil
}

func podNamesWithNamespaces(ctx context.Context, client kubernetes.Interface, _ string) (names []string, err error) {
	list, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, item := range list.Items {
		names = append(names, item.Namespace+"/"+item.Name)
	}
	return names, nil
}
