"""A network grows in three directions: depth costs in proportion, width and resolution by their square.

    python examples/notes/three_directions.py three_directions.png

Counts multiply-accumulates of EfficientNet-B0 and ResNet-50 scaled in one direction alone, and in all three together by
alpha, beta, gamma to the power of phi, where alpha * beta^2 * gamma^2 is about 2, so that each step doubles the cost
(Tan & Le 2019, 1905.11946, section 3). Beside them the published EfficientNets. Which way is the best for accuracy
takes training: `kc.search_coefficients`.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import keras_cnn as kc
from keras_cnn.models import shapes
from keras_cnn.models.scaling import ALPHA, BETA, GAMMA

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path, help="the picture that is written")
out = parser.parse_args().out

FACTORS = np.array([1, 1.25, 1.5, 2, 3])
PHIS = np.arange(6)
NETWORKS = ("efficientnet_b0", "resnet50")
EXPECTED = {"depth": 1, "width": 2, "resolution": 2}


def cost(network, **directions):
    """Multiply-accumulates of a network of which each direction grows by its factor; counted, nothing is built."""
    directions = {"alpha": 1, "beta": 1, "gamma": 1} | directions
    return shapes.macs(shapes.tally(kc.compound_scale(network, phi=1, **directions)))


alone = {
    (network, direction): np.array([cost(network, **{greek: factor}) for factor in FACTORS]) / cost(network)
    for network in NETWORKS
    for direction, greek in zip(EXPECTED, ("alpha", "beta", "gamma"), strict=True)
}
exponents = {key: np.polyfit(np.log(FACTORS), np.log(costs), 1)[0] for key, costs in alone.items()}
together = {
    network: np.array([cost(network, alpha=ALPHA**phi, beta=BETA**phi, gamma=GAMMA**phi) for phi in PHIS])
    / cost(network)
    for network in NETWORKS
}
growth = {network: (costs[-1]) ** (1 / PHIS[-1]) for network, costs in together.items()}
published = {f"B{i}": kc.info(f"efficientnet_b{i}") for i in range(8)}

figure = Figure(figsize=(14, 4.5), layout="constrained")
single, compound, family = figure.subplots(1, 3)
for i, ((network, direction), costs) in enumerate(alone.items()):
    label = f"{direction}, {network}: power {exponents[network, direction]:.2f}"
    single.loglog(FACTORS, costs, "o-" if network == NETWORKS[0] else "s--", color=f"C{i % 3}", label=label)
for power in (1, 2):
    single.loglog(FACTORS, FACTORS.astype(float) ** power, color="0.85", linewidth=6, zorder=0)
single.set(title="one direction alone", xlabel="factor", ylabel="multiply-accumulates, as a multiple")
single.set(xticks=FACTORS, xticklabels=[f"{factor:g}" for factor in FACTORS])
single.minorticks_off()
single.set(yticks=[1, 2, 4, 8], yticklabels=["1", "2", "4", "8"])
single.legend(fontsize="small")
compound.semilogy(PHIS, 2.0**PHIS, color="0.85", linewidth=6, label="2 to the power of phi")
for network, costs in together.items():
    compound.semilogy(PHIS, costs, "o-", label=f"{network}: x{growth[network]:.2f} a step")
compound.set(title="all three together: compound_scale(NAME, phi)", xlabel="phi", yticks=2**PHIS, yticklabels=2**PHIS)
compound.set_ylabel("multiply-accumulates, as a multiple")
compound.minorticks_off()
compound.legend()
family.bar(list(published), [one["macs"] / 1e9 for one in published.values()], color="C0")
for x, one in enumerate(published.values()):
    label = f"{one['macs'] / 1e9:.1f}\n{one['input_shape'][0]} px\n{one['parameters'] / 1e6:.0f} M"
    family.annotate(label, (x, one["macs"] / 1e9), ha="center", va="bottom", fontsize="small")
family.set(title="published: cost, image, parameters", ylabel="multiply-accumulates, billions")
family.margins(y=0.15)
out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(out, dpi=100)

off = max(abs(found - EXPECTED[direction]) for (_, direction), found in exponents.items())
print(
    f"Seen: alpha * beta^2 * gamma^2 = {ALPHA * BETA**2 * GAMMA**2:.2f}; counted, a step of phi costs "
    + " and ".join(f"{growth[network]:.2f} times as much for {network}" for network in NETWORKS)
    + ". Alone, costs grow with the power "
    + "; ".join(f"{exponents[n, d]:.2f} of {d} ({n})" for n, d in exponents)
    + f": at most {off:.2f} from 1, 2 and 2, since widths and depths are rounded and the stem is no deeper."
)
